"""Growth in the training loops of other libraries: thin callbacks over the same transaction.

`irgrow.adapters.lightning` and `irgrow.adapters.transformers` import the library they are for, and nothing else does.
"""

from __future__ import annotations
