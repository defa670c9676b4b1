"""`python -m seqserve_client` is `seqserve`."""

from seqserve_client.cli import main

main()
