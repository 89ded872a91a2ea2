"""Memory maps of HDF5 and Zarr arrays that are stored as they are: not compressed, in plain files.

Their own libraries copy what they read, one thread at a time. A pass over rows in the page cache is about as
fast as a copy of them, so that fits would take twice as long.
"""

import os

import numpy as np

MAX_MAPS = 10_000  # of one array: a process may have some 65,000


class MappedRows:
    """Rows in tiles, each an array in C order of neighbouring rows and columns.

    Parameters
    ----------
    tiles : list of list of arrays
        From top to bottom, and each from left to right; tiles side by side have the same rows.

    Attributes
    ----------
    shape : tuple
    dtype : dtype
    ends : ndarray of int
        Where the rows of each run of tiles end.
    """

    is_plain = True  # see slices.is_plain

    def __init__(self, tiles):
        self.tiles, self.dtype = tiles, tiles[0][0].dtype
        self.ends = np.cumsum([run[0].shape[0] for run in tiles])
        self.shape = int(self.ends[-1]), sum(tile.shape[1] for tile in tiles[0])

    def __getitem__(self, rows):
        start, stop, _ = rows.indices(self.shape[0])
        return self.read(start, max(start, stop), np.empty)

    def read(self, start, stop, room):
        """Rows start to stop: as they lie if that is in one tile, else copied to ``room(shape, dtype)``."""
        first = int(np.searchsorted(self.ends, start, side="right"))
        if start < stop <= self.ends[first] and len(self.tiles[first]) == 1:
            tile = self.tiles[first][0]
            return tile[start - self.ends[first] + len(tile) :][: stop - start]
        out, done = room((stop - start, self.shape[1]), self.dtype), 0
        while done < stop - start:
            run, offset, column = self.tiles[first], int(start + done - self.ends[first]), 0
            for tile in run:
                part = tile[len(tile) + offset :][: stop - start - done]
                out[done : done + len(part), column : column + tile.shape[1]] = part
                column += tile.shape[1]
            done, first = done + len(part), first + 1
        return out


def mapped(X):
    """The rows of a foreign array as maps of its file, where that is possible; else ``X`` itself.

    A memory map of the whole if it lies in one piece in C order, else :class:`MappedRows`.
    """
    try:
        found = _map_hdf5(X) if hasattr(X, "id") else _map_zarr(X) if hasattr(X, "store_path") else None
        same = found is not None and all(
            np.asarray(X[k : k + 1]).tobytes() == found[k : k + 1].tobytes() for k in (0, X.shape[0] - 1)
        )
    except (OSError, ValueError, AttributeError, RuntimeError):  # of another version, on another store, ...
        return X
    return found if same else X


def _map_hdf5(X):
    file, layout = X.file, X.id.get_create_plist()
    plain = not (layout.get_nfilters() or X.is_virtual or X.external or file.userblock_size)
    # what is being written may not be in the file yet
    if not plain or file.driver != "sec2" or file.mode != "r" or X.dtype.kind not in "iuf":
        return None
    if X.chunks is None:
        offset = X.id.get_offset()
        aligned = offset is not None and offset % X.dtype.itemsize == 0
        return np.memmap(file.filename, X.dtype, "r", offset, X.shape) if aligned else None
    grid = _grid(X.shape, X.chunks)
    if X.id.get_num_chunks() != grid[0] * grid[1]:  # others hold the fill value
        return None
    whole = np.memmap(file.filename, np.uint8, "r")
    size, found = int(np.prod(X.chunks)) * X.dtype.itemsize, {}

    def note(info):
        place = tuple(o // c for o, c in zip(info.chunk_offset, X.chunks, strict=True))
        found[place] = whole[info.byte_offset : info.byte_offset + size].view(X.dtype).reshape(X.chunks)

    X.id.chunk_iter(note)
    return _tiled(found.__getitem__, X.shape, X.chunks)


def _map_zarr(X):
    info = X.metadata
    if info.zarr_format == 2:
        plain, dtype = info.compressor is None and not info.filters and info.order == "C", X.dtype
    else:
        (codec,) = info.codecs
        plain = type(codec).__name__ == "BytesCodec"
        dtype = X.dtype.newbyteorder(getattr(codec.endian, "value", "="))
    grid = _grid(X.shape, X.chunks)
    if not plain or X.dtype.kind not in "iuf" or grid[0] * grid[1] > MAX_MAPS:
        return None
    folder = os.path.join(os.fspath(X.store.root), X.path)

    def tile(place):
        return np.memmap(os.path.join(folder, info.encode_chunk_key(place)), dtype, "r", shape=X.chunks)

    return _tiled(tile, X.shape, X.chunks)


def _grid(shape, chunks):
    return tuple(-(-n // size) for n, size in zip(shape, chunks, strict=True))


def _tiled(tile, shape, chunks):
    """Rows of the tiles, which are stored whole also at the edges."""
    n_down, n_across = _grid(shape, chunks)
    return MappedRows(
        [
            [tile((i, j))[: shape[0] - i * chunks[0], : shape[1] - j * chunks[1]] for j in range(n_across)]
            for i in range(n_down)
        ]
    )
