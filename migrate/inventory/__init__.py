"""The inputs of a plan: the directory of users and the inventories of the stores, checked and turned into Parquet on scratch."""

from migrate.inventory.directory import read_directory
from migrate.inventory.files import DIRECTORY_COLUMNS, INVENTORY_COLUMNS, DirectoryFile, InventoryFile
from migrate.inventory.live import forget_listing
from migrate.inventory.reverse import check_complete
from migrate.inventory.sample import SampleReport, check_sample
from migrate.inventory.take import live_folder, take_inventory

__all__ = [
    "DIRECTORY_COLUMNS",
    "INVENTORY_COLUMNS",
    "DirectoryFile",
    "InventoryFile",
    "SampleReport",
    "check_complete",
    "check_sample",
    "forget_listing",
    "live_folder",
    "read_directory",
    "take_inventory",
]
