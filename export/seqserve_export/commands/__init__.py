"""The room's subcommands, one a file. Light to import: `seqserve --help` imports them all."""

from seqserve_export.commands.export import export
from seqserve_export.commands.sign import keygen, sign
from seqserve_export.commands.train import train
from seqserve_export.commands.verify import verify

__all__ = ["export", "keygen", "sign", "train", "verify"]
