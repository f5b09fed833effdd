"""Documents to token shards to deterministic batches."""

from langwright.dataset.batch import IGNORE, PADDING, Batch, RowArrays
from langwright.dataset.build import build_dataset, write_dataset
from langwright.dataset.chat import ChatRows
from langwright.dataset.config import DatasetConfig
from langwright.dataset.held_out import EvalRows, eval_windows
from langwright.dataset.loader import RowsDataset, book_loader, row_loader
from langwright.dataset.mixing import MixedRows, source_passes
from langwright.dataset.opening import open_rows, open_training_rows
from langwright.dataset.packed import PackedRows
from langwright.dataset.packing import best_fit
from langwright.dataset.prefetch import Prefetcher
from langwright.dataset.remixing import RemixedRows, remix
from langwright.dataset.rows import Rows
from langwright.dataset.shards import DatasetManifest, TokenShards, TokenStream
from langwright.dataset.show import Prediction, growing_context, show_row
from langwright.dataset.tokens import TokenArray, id_dtype, write_token_file
from langwright.dataset.windows import RandomChunkRows, WindowRows
from langwright.dataset.writer import ShardWriter

__all__ = [
    "IGNORE",
    "PADDING",
    "Batch",
    "ChatRows",
    "DatasetConfig",
    "DatasetManifest",
    "EvalRows",
    "MixedRows",
    "PackedRows",
    "Prediction",
    "Prefetcher",
    "RandomChunkRows",
    "RemixedRows",
    "RowArrays",
    "Rows",
    "RowsDataset",
    "ShardWriter",
    "TokenArray",
    "TokenShards",
    "TokenStream",
    "WindowRows",
    "best_fit",
    "book_loader",
    "build_dataset",
    "eval_windows",
    "growing_context",
    "id_dtype",
    "open_rows",
    "open_training_rows",
    "remix",
    "row_loader",
    "show_row",
    "source_passes",
    "write_dataset",
    "write_token_file",
]
