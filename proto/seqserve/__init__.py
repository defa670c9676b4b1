"""Every contract between the rooms: the wire, the artifact and the ragged batch.

`seqserve.v1` holds the messages and services; `ragged` carries sequences between numpy and
the wire; `artifact` says what lies in a model repository; `golden` is the parity
certificate. What is done with them is left to the other rooms.
"""

__version__ = "0.1.0"
