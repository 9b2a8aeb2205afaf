"""Storage of an atlas: maps in Zarr, tables in Parquet, commits; and ``Atlas``, their reader."""

from pipeline.store.atlas import Atlas
from pipeline.store.atlas_shard import AtlasShard
from pipeline.store.lease import Lease
from pipeline.store.map_dataset import MapDataset
from pipeline.store.map_reader import MapReader
from pipeline.store.object_store import ObjectStore
from pipeline.store.shard_maps import ShardMaps
from pipeline.store.shard_writer import ShardWriter

__all__ = ["Atlas", "AtlasShard", "Lease", "MapDataset", "MapReader", "ObjectStore", "ShardMaps", "ShardWriter"]
