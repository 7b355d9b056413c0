"""Wire types, one module per conversation.

Conventions: times of day are Unix seconds (`..._unix_s`), durations seconds (`..._s`), sizes bytes or tokens. `scope` is
`<cluster>/<model>`, `*` for every model. Fields may be added with a default; a field is never renamed or reused.
Receivers ignore fields they do not know and refuse a message that lacks one without a default.
"""
