"""The store in an S3 bucket."""

from __future__ import annotations

from tfs_deploy.clock import Clock, SystemClock
from tfs_deploy.store.assembled import AssembledStore
from tfs_deploy.store.object_store.address import S3Address
from tfs_deploy.store.object_store.catalogue import Catalogue
from tfs_deploy.store.object_store.change_token import ChangeTokens
from tfs_deploy.store.object_store.choosing import open_transfer
from tfs_deploy.store.object_store.conditional_write_check import ConditionalWriteCheck
from tfs_deploy.store.object_store.connection import connect
from tfs_deploy.store.object_store.documents import S3StateDocuments
from tfs_deploy.store.object_store.fetching import Fetcher
from tfs_deploy.store.object_store.numbering import Numbers
from tfs_deploy.store.object_store.objects import Objects
from tfs_deploy.store.object_store.options import S3Options
from tfs_deploy.store.object_store.publish_lease import PublishLeases
from tfs_deploy.store.object_store.publishing import Publisher
from tfs_deploy.store.object_store.removal import Remover


class S3Store(AssembledStore):
    """Versions in ``s3://bucket/prefix/<model>/<version>/``; see `tfs_deploy.store.object_store.layout`."""

    def __init__(
        self,
        uri: str,
        *,
        options: S3Options | None = None,
        clock: Clock | None = None,
        publish_wait_seconds: float = 600.0,
        lease_seconds: float = 60.0,
    ) -> None:
        """Open the store; nothing is sent yet.

        `publish_wait_seconds` is how long to wait for another publisher of the same bytes, `lease_seconds` after how
        long without a sign of life that one counts as dead.
        """
        clock = clock or SystemClock()
        connection = connect(S3Address.parse(uri), options or S3Options())
        objects = Objects(connection, clock)
        transfer = open_transfer(connection)
        conditional_writes = ConditionalWriteCheck(objects, endpoint=connection.endpoint, clock=clock)
        documents = S3StateDocuments(objects, conditional_writes)
        numbers = Numbers(objects, documents, conditional_writes, clock)
        change_tokens = ChangeTokens(objects, documents, clock)
        leases = PublishLeases(documents, clock, lease_seconds=lease_seconds)
        catalogue = Catalogue(objects, documents, numbers, change_tokens, Fetcher(objects, transfer))
        super().__init__(
            connection.address.uri,
            documents,
            holdings=catalogue,
            intake=Publisher(
                objects,
                documents,
                transfer=transfer,
                catalogue=catalogue,
                numbers=numbers,
                change_tokens=change_tokens,
                leases=leases,
                conditional_writes=conditional_writes,
                wait_seconds=publish_wait_seconds,
            ),
            removal=Remover(
                objects,
                documents,
                numbers=numbers,
                change_tokens=change_tokens,
                leases=leases,
                conditional_writes=conditional_writes,
                clock=clock,
            ),
        )
