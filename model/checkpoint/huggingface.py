"""Checkpoints in folders of the Hugging Face hub's layout: JSON beside safetensors.

Opening reads JSON and headers alone and needs no torch. Nothing in a folder is ever run: no code is imported from it,
and pickles are not opened. Files and keys: what `save_pretrained` of transformers writes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from model.chat_template import ChatTemplate
from model.checkpoint.checkpoint import Checkpoint, known_end_ids
from model.checkpoint.hf_config import family_of, read_config
from model.checkpoint.hf_weights import INDEX_FILE, WEIGHTS_FILE, HFWeights, read_tensors
from model.checkpoint.json_file import JsonObject, open_file, read_json
from model.checkpoint.tokenizer_json import TokenizerFile, read_tokenizer_json
from model.errors import CheckpointError
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
TOKENIZER_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
MAX_BYTES = 2 << 20  # of each of these but the tokenizer

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
SAMPLING_KEYS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")


def open_folder(folder: Path) -> Checkpoint:
    """Read and check a folder up to its weights.

    Raises CheckpointError: a file missing or broken, another family, a key that asks for what GPT does not do, a
    tensor missing or of another shape, a tokenizer that is not byte-level BPE, weights in pickles only.
    """
    try:
        return _open(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def _open(folder: Path) -> Checkpoint:
    _check_weight_files(folder)
    config_json = read_json(folder / CONFIG_FILE, MAX_BYTES)
    family, config = family_of(config_json), read_config(config_json)
    tensors = read_tensors(folder, family.layout)
    if "lm_head.weight" in tensors:  # counts where it is, whatever the key says: it may differ from the embedding
        config = replace(config, tied_head=False)
    weights = HFWeights(tensors, config, family.layout)
    settings, generation = (_read_optional(folder / name) for name in (TOKENIZER_CONFIG_FILE, GENERATION_FILE))
    file = _read_tokenizer(folder, config.vocab_size)
    template, special_tokens = _read_template(folder, settings), _read_special_tokens(settings)
    if template is None and "bos_token" not in settings.values:  # GPT-2's leaves it to its class
        for token_id in _read_ids(config_json, "bos_token_id", file.tokenizer.n_vocab):
            special_tokens["bos_token"] = file.tokenizer.vocabulary.tokens[token_id]
    return Checkpoint(
        path=folder,
        config=config,
        tokenizer=file.tokenizer,
        chat_template=ChatTemplate(template, file.tokenizer, special_tokens),
        bos_id=file.bos_id,
        end_ids=_read_end_ids((config_json, generation), special_tokens, file.tokenizer, config.vocab_size),
        sampling_params=_read_sampling_params(generation),
        weights=weights,
    )


def refuse_pickle(path: Path, folder: Path) -> NoReturn:
    """Raise CheckpointError that says how to make safetensors of a pickle."""
    raise CheckpointError(
        f"{path}: expected safetensors, found a pickle, which can run any program when it is read. If you trust it: "
        f'python -c "from transformers import AutoModelForCausalLM as M; '
        f"M.from_pretrained('{folder}').save_pretrained('{folder}', safe_serialization=True)\""
    )


def _check_weight_files(folder: Path) -> None:
    if (folder / WEIGHTS_FILE).exists() or (folder / INDEX_FILE).exists():
        return
    pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        refuse_pickle(Path(pickles[0].name), folder)
    raise CheckpointError(f"weights: expected {WEIGHTS_FILE} or {INDEX_FILE}, found neither")


def _read_optional(path: Path) -> JsonObject:
    return read_json(path, MAX_BYTES) if path.exists() else JsonObject(path.name, {})


def _read_tokenizer(folder: Path, n_rows: int) -> TokenizerFile:
    if not (folder / TOKENIZER_FILE).exists() and (folder / "tokenizer.model").exists():
        raise CheckpointError(
            f"{TOKENIZER_FILE}: expected byte-level BPE, found only tokenizer.model, which is of SentencePiece"
        )
    file = read_tokenizer_json(folder / TOKENIZER_FILE)
    n_tokens = file.tokenizer.n_vocab
    if n_tokens > n_rows:
        raise CheckpointError(
            f"{TOKENIZER_FILE}: expected at most {n_rows:,} tokens as in the embedding, found {n_tokens:,}"
        )
    return file


def _read_special_tokens(settings: JsonObject) -> dict[str, str]:
    """Return the texts of those that the folder names; templates use them by these names."""
    tokens = {}
    for name in filter(settings.has, SPECIAL_TOKENS):
        is_object = isinstance(settings.values[name], dict)
        tokens[name] = settings.child(name).text("content") if is_object else settings.text(name)
    return tokens


def _read_template(folder: Path, settings: JsonObject) -> str | None:
    path = folder / TEMPLATE_FILE
    if path.exists():
        with open_file(path) as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise CheckpointError(f"{TEMPLATE_FILE}: expected at most {MAX_BYTES:,} bytes, found more")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{TEMPLATE_FILE}: expected UTF-8, found {error.reason}") from None
    if not isinstance(settings.values.get("chat_template"), list):
        return settings.text("chat_template") if settings.has("chat_template") else None
    templates = {entry.text("name"): entry.text("template") for entry in settings.children("chat_template")}
    return templates.get("default") or settings.refuse("chat_template", "one that is named default")


def _read_end_ids(
    files: tuple[JsonObject, JsonObject], special_tokens: dict[str, str], tokenizer: Tokenizer, n_rows: int
) -> frozenset[int]:
    end_ids = known_end_ids(tokenizer)
    if "eos_token" in special_tokens:
        token, tokens = special_tokens["eos_token"], tokenizer.vocabulary.tokens
        if token not in tokens:
            where = f"{TOKENIZER_CONFIG_FILE}: eos_token"
            raise CheckpointError(f"{where}: expected a token of {TOKENIZER_FILE}, found {token!r}")
        end_ids.add(tokens.index(token))
    for file in files:
        end_ids.update(_read_ids(file, "eos_token_id", n_rows))
    return frozenset(end_ids)


def _read_ids(file: JsonObject, key: str, n_ids: int) -> list[int]:
    """Return the ids at a key, which may hold one, or a list, or nothing."""
    if not file.has(key):
        return []
    ids = file.integers(key) if isinstance(file.values[key], list) else [file.integer(key)]
    if not all(0 <= token_id < n_ids for token_id in ids):
        file.refuse(key, f"ids of tokens below {n_ids:,}")
    return ids


def _read_sampling_params(generation: JsonObject) -> SamplingParams:
    """Return what the makers recommend; of what they leave out, the defaults, unless they say that tokens are drawn."""
    values: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0} if generation.has("do_sample") else {}
    values |= {key: generation.values[key] for key in SAMPLING_KEYS if generation.has(key)}
    if not generation.flag("do_sample", True):
        values["temperature"] = 0.0
    try:
        return SamplingParams(**values)
    except ValueError as error:
        raise CheckpointError(f"{generation.where}: {error}") from None
