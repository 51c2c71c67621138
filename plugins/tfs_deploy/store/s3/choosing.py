"""Chooses what moves the bytes: obstore, which is faster, or boto3."""

from __future__ import annotations

from tfs_deploy.errors import MissingExtra
from tfs_deploy.store.s3.boto_transfer import BotoTransfer
from tfs_deploy.store.s3.connection import Connection
from tfs_deploy.store.s3.ranges_by_boto3 import RangesByBoto3
from tfs_deploy.store.s3.transfer import Transfer


def open_transfer(connection: Connection) -> Transfer:
    """Return what moves the bytes, as the options choose."""
    choice = connection.options.transfer
    if choice != "boto3":
        try:
            from tfs_deploy.store.s3.obstore_transfer import ObstoreTransfer

            return RangesByBoto3(ObstoreTransfer(connection), BotoTransfer(connection))
        except ImportError as error:
            if choice == "obstore":
                raise MissingExtra("obstore", "s3") from error
    return BotoTransfer(connection)
