"""Where a job's files lie: each is there whole, or not at all, whatever ends its writer.

`files` is what is asked of a place. `local` is this machine's, `local_lock` its kernel's lock;
`remote` is whatever fsspec knows, `lease` a lock where there is no kernel to ask. `holder` is who
has one.
"""
