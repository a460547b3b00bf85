"""MNIST, and any dataset of its format, from the IDX files of LeCun, Cortes and Burges."""

import gzip
import math
import os
from pathlib import Path

import numpy as np

from mlp_jax.config.schema import Mnist
from mlp_jax.data.columns import Raw
from mlp_jax.data.files import insist_on_memory, opened, reading
from mlp_jax.errors import UserError

_MAX_GZIP_RATIO = 1032  # DEFLATE's limit


def read_idx(path: Path, num_dims: int) -> np.ndarray:
    """The unsigned bytes of an IDX file, plain or gzipped.

    The magic number 0x08 after two zero bytes, the number of dimensions, each dimension as four
    bytes (most significant first), then the entries. LeCun, Cortes & Burges, "The MNIST database".
    """
    with opened("data.root", path) as file:
        file_size = os.fstat(file.fileno()).st_size
        stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        header = stream.read(4 + 4 * num_dims)
        if len(header) < 4 + 4 * num_dims or header[:4] != bytes((0, 0, 8, num_dims)):
            raise ValueError(
                f"its header {header[:4].hex(' ')} is not 00 00 08 {num_dims:02x}, "
                f"unsigned bytes in {num_dims} dimensions"
            )
        shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
        size, declared = math.prod(shape), f"it declares {' x '.join(map(str, shape))} entries"
        # Both before anything that large is allocated.
        if size > file_size * (_MAX_GZIP_RATIO if stream is not file else 1):
            raise ValueError(f"{declared} and holds fewer")
        insist_on_memory(4 * size, f"{declared}, as float32")
        entries = stream.read(size + 1)  # one byte more, to see that the file ends
        if len(entries) != size:
            raise ValueError(f"{declared} and holds {'more' if len(entries) > size else 'fewer'}")
    return np.frombuffer(entries, np.uint8).reshape(shape)


def _find(root: Path, name: str) -> Path:
    with reading("data.root", root):
        for path in (root / name, root / f"{name}.gz"):
            if path.expanduser().exists():
                target = path.expanduser().resolve()
                if not target.is_relative_to(root.expanduser().resolve()):
                    raise UserError(
                        f"data.root={root}: {path.name} is a link to {target}, outside of it; "
                        f"give data.root={target.parent}."
                    )
                return path
    raise UserError(
        f"data.root={root}: neither {name} nor {name}.gz is there; MNIST is four files, "
        "{train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz."
    )


def _mnist_part(root: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    images_path = _find(root, f"{prefix}-images-idx3-ubyte")
    labels_path = _find(root, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels) or images.size == 0:
        raise UserError(
            f"data.root={images_path}: {len(images)} images of {images.shape[1]} x "
            f"{images.shape[2]} pixels for {len(labels)} labels in {labels_path.name}."
        )
    if labels.max() > 9:
        raise UserError(f"data.root={labels_path}: label {labels.max()}; must be 0 to 9.")
    return images, labels.astype(np.int64)


def mnist(config: Mnist) -> Raw:
    images, labels = _mnist_part(Path(config.root), "train")
    test_images, test_labels = _mnist_part(Path(config.root), "t10k")
    if test_images.shape[1:] != images.shape[1:]:
        raise UserError(
            f"data.root={config.root}: images of {images.shape[1:]} pixels for training, of "
            f"{test_images.shape[1:]} for testing."
        )
    return Raw(
        images.reshape(len(images), -1),
        labels,
        source=str(Path(config.root).expanduser().resolve()),
        feature_names=tuple(f"pixel_{i}_{j}" for i, j in np.ndindex(images.shape[1:])),
        class_names=tuple("0123456789"),
        class_values=tuple(range(10)),
        x_scale=255.0,
        x_dtype=np.float32,
        test=(test_images.reshape(len(test_images), -1), test_labels),
    )
