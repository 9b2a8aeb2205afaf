"""Tables of faithfulness and sanity: a figure of every map, and what they come to."""

import pyarrow as pa

_CATEGORY = pa.dictionary(pa.int32(), pa.string())

FIGURES = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("method", _CATEGORY, nullable=False),
        pa.field("target", _CATEGORY, nullable=False),
        pa.field("figure", _CATEGORY, nullable=False),
        pa.field("value", pa.float64()),
    ]
)
"""One row an image, method, target and figure. ``row``, ``key`` – of the sample; ``target`` – whose map; ``figure`` –
a name in a measure's ``figures``; ``value`` – null where it is not defined."""

SUMMARY = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("figure", pa.string(), nullable=False),
        pa.field("better", pa.string(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("mean", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)
"""One row a method, target and figure. ``better`` – ``higher`` or ``lower``; ``images`` – that have a value; ``mean`` –
of them; ``low``, ``high`` – from 2.5 to 97.5 % of the bootstrap over images, whose draws all methods share. The figure
``adcc_of_means`` is ADCC of the means of its parts, as tables of papers have it."""
