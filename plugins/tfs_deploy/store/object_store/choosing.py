"""Chooses what moves the bytes: obstore, which is faster, or boto3."""

from __future__ import annotations

import logging

from tfs_deploy.errors import InvalidInput, MissingExtra
from tfs_deploy.store.object_store.boto_transfer import BotoTransfer
from tfs_deploy.store.object_store.connection import Connection
from tfs_deploy.store.object_store.obstore_transfer import ObstoreTransfer, OneCertificateOnly
from tfs_deploy.store.object_store.ranges_by_boto3 import RangesByBoto3
from tfs_deploy.store.object_store.transfer import Transfer

log = logging.getLogger(__name__)


def open_transfer(connection: Connection) -> Transfer:
    """Return what moves the bytes, as the options choose."""
    choice = connection.options.transfer
    if choice != "boto3":
        try:
            return RangesByBoto3(ObstoreTransfer(connection), BotoTransfer(connection))
        except ImportError as error:
            if choice == "obstore":
                raise MissingExtra("obstore", "s3") from error
        except OneCertificateOnly as error:
            if choice == "obstore":
                raise InvalidInput(
                    f"The CA bundle {str(error)!r} holds several certificates, and obstore trusts one only.",
                    "Name a file with the one that signed the server's, or let boto3 move the bytes.",
                ) from error
            log.info("boto3 moves the bytes: the CA bundle %s holds several certificates", error)
    return BotoTransfer(connection)
