"""`hf-vpdd convert WHAT --from SOURCE`: files of original implementations as folders of this package."""

import argparse


SUMMARY = "Convert official checkpoints to folders that from_pretrained loads, and robot datasets to LeRobot's format."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..conversion.registry import KINDS

    class Help(argparse.RawDescriptionHelpFormatter, parser.formatter_class):
        """Keeps the line breaks of examples."""

    class SourceParser(argparse.ArgumentParser):
        """Takes the options of the source that `--from` names: each has its own."""

        sources: dict = {}
        extended = False

        def parse_known_args(self, args=None, namespace=None):
            if not self.extended:
                self.extended = True
                source = self.sources.get(_named_source(args or []))
                if source is not None:
                    module = source.load()
                    module.add_arguments(self)
                    self.description, self.epilog = module.DESCRIPTION, module.EXAMPLES
                # last, after the files that a source may take without a flag
                self.add_argument("out", metavar="OUT", help="the folder to write")
            return super().parse_known_args(args, namespace)

    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True, parser_class=SourceParser)
    for name, kind in KINDS.items():
        width = max(map(len, kind.sources))
        listed = "\n".join(f"  --from {source:<{width}} {kind.sources[source].summary}" for source in kind.sources)
        one = kinds.add_parser(
            name,
            help=kind.summary,
            description=f"{kind.summary[:1].upper()}{kind.summary[1:]}.\n\n{listed}\n\nEach source has options of its "
            f"own: hf-vpdd convert {name} --from {next(iter(kind.sources))} --help",
            formatter_class=Help,
            allow_abbrev=False,
        )
        one.sources = kind.sources
        one.add_argument("--from", dest="source", required=True, choices=list(kind.sources), help="whose files")
        if kind.overwrites:
            one.add_argument("--overwrite", action="store_true", help="replace the model that is in OUT")


def run(args: argparse.Namespace) -> int:
    from ..conversion.registry import KINDS

    report = KINDS[args.kind].sources[args.source].load().run(args)
    print(report.text())
    return 0


def _named_source(args: list[str]) -> str | None:
    for word, following in zip(args, [*args[1:], None]):
        if word == "--from":
            return following
        if word.startswith("--from="):
            return word.removeprefix("--from=")
    return None
