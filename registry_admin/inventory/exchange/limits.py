"""What a document may hold at most. Each is checked while it is read, before memory or time can run out."""

from __future__ import annotations

MAX_BYTES = 10_000_000
MAX_VALUES = 1_000_000  # items of lists, and values of keys
MAX_DEPTH = 12
MAX_PROBLEMS = 200  # are reported

TOO_LARGE = f"it is larger than {MAX_BYTES // 1_000_000} MB: divide it"
TOO_MANY_VALUES = f"it has more than {MAX_VALUES:,} values: divide it"
TOO_DEEP = f"it is nested too deeply: more than {MAX_DEPTH} levels"
