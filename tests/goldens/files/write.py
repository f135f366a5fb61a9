"""Writes the parquet files of this folder (pyarrow 21 or later)."""

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {i} and {i}?", "loss": None},
            {"role": "assistant", "content": f"{2 * i}, 沐雪", "loss": True},
        ],
        "score": i / 2,
        "id": i,
    }
    for i in range(5)
]
TABLE = pa.Table.from_pylist(ROWS)
for codec in ("none", "snappy", "zstd", "gzip", "brotli", "lz4"):
    pq.write_table(TABLE, f"messages_{codec}.parquet", compression=codec, row_group_size=2)
