"""Read-only Zarr store over an ``ObjectStore``, with its retries and errors."""

from asyncio import to_thread
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from pipeline.store.object_store import ObjectStore


class ReadOnlyStore(Store):
    """Zarr store of the objects below a folder of an atlas.

    zarr's own store for URLs uses another client, which gives up at the first error or after half an hour, and raises
    botocore's errors.
    """

    supports_writes = supports_deletes = False
    supports_listing = True

    def __init__(self, objects: ObjectStore, folder: str) -> None:
        super().__init__(read_only=True)
        self.objects, self.folder = objects, folder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReadOnlyStore) and (self.objects.url, self.folder) == (other.objects.url, other.folder)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        try:
            data = await to_thread(self.objects.get, f"{self.folder}/{key}", *_limits(byte_range))
        except FileNotFoundError:
            return None
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return await to_thread(self.objects.exists, f"{self.folder}/{key}")

    async def list(self) -> AsyncIterator[str]:
        for name in await to_thread(self._names, ""):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for name in await to_thread(self._names, prefix):
            yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name in await to_thread(self.objects.list, f"{self.folder}/{prefix}".rstrip("/")):
            yield name

    def _names(self, prefix: str) -> tuple[str, ...]:
        start = f"{self.folder}/"
        return tuple(name.removeprefix(start) for name, _ in self.objects.list_all() if name.startswith(start + prefix))

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()


def _limits(wanted: ByteRequest | None) -> tuple[int | None, int | None]:
    match wanted:
        case RangeByteRequest(start, end):
            return start, end
        case OffsetByteRequest(offset):
            return offset, None
        case SuffixByteRequest(suffix):
            return -suffix, None
    return None, None
