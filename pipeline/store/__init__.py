"""Maps to Zarr, tables to Parquet, commits last; and ``Atlas``, which reads them."""

from pipeline.store.atlas import Atlas
from pipeline.store.dataset import MapDataset
from pipeline.store.lease import Lease
from pipeline.store.objects import Objects
from pipeline.store.sink import Sink
from pipeline.store.tar import Tar

__all__ = ["Atlas", "Lease", "MapDataset", "Objects", "Sink", "Tar"]
