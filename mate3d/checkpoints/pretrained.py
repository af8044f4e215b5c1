"""Models that load from a folder or the hub, save to a folder, and upload to the hub."""

import shlex
import tempfile
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import yaml
from huggingface_hub import HfApi, ModelCard, ModelCardData, ModelHubMixin, snapshot_download

from mate3d.atomic import atomic_folder, standing_folder
from mate3d.checkpoints.assets import folder_or_asset, where_to_find
from mate3d.checkpoints.hub import hub_errors, is_hub_id
from mate3d.checkpoints.storage import load_state_strictly, load_weights, save_weights
from mate3d.errors import UserError
from mate3d.options import OptionError, config_from_dict, config_to_dict

CONFIG_FILE = "config.yaml"
GENERATOR_FILE = "generator.safetensors"
CARD_FILE = "card.md"
HUB_CARD_FILE = "README.md"
FILES = (CONFIG_FILE, GENERATOR_FILE, CARD_FILE, HUB_CARD_FILE)
FORMAT_VERSION = 1
# Where a folder of checkpoints, such as a training run, has a checkpoint.
_WEIGHTS_INSIDE = f"*/{GENERATOR_FILE}"
EMPTY_CARD = "# Generator\n\nNo card was written.\n"
UNKNOWN_LICENSE = "other"

ModelT = TypeVar("ModelT", bound="PretrainedModel")


class PretrainedModel(
    ModelHubMixin,
    library_name="mate3d",
    pipeline_tag="unconditional-image-generation",
    tags=["mate3d", "3d", "portrait", "image-editing"],
):
    """Loads, saves and uploads a module that is built from one config dataclass.

    A folder holds config.yaml, generator.safetensors and card.md. On the hub there is also
    README.md, the card with the metadata that the hub indexes. There is no config.json.
    """

    # Dataclass that the constructor takes.
    config_type: ClassVar[type]

    # Text of card.md and licence in README.md, both from the folder that was loaded.
    card: str = ""
    license: str = UNKNOWN_LICENSE

    @classmethod
    def from_pretrained(
        cls: type[ModelT],
        path_or_hub_id: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        **hub_options: Any,
    ) -> ModelT:
        """Load a checkpoint, frozen and in eval mode; nothing in it is executed.

        Args:
            path_or_hub_id: Name of an included checkpoint (`demo_cat`), checkpoint folder, or
                owner/name on the Hugging Face hub; the first of these that exists.
            revision: Branch, tag or commit on the hub; None is its main branch.
            hub_options: More arguments of `huggingface_hub.snapshot_download`, such as
                local_files_only, token or cache_dir.

        Raises:
            UserError: If there is no such checkpoint, it is damaged or does not fit its config,
                or the hub refuses it.
        """
        folder = _local_folder(path_or_hub_id, revision)
        if folder is None:
            folder = _download(str(path_or_hub_id), revision, hub_options)
        if not (folder / CONFIG_FILE).is_file():
            raise UserError(
                f"no checkpoint at {path_or_hub_id}: no {CONFIG_FILE} (published .pkl files need"
                f" scripts.convert_checkpoint){where_to_find(folder, _WEIGHTS_INSIDE)}"
            )
        model = _build(folder / CONFIG_FILE, cls)
        load_state_strictly(model, load_weights(folder / GENERATOR_FILE), str(folder))
        if (folder / CARD_FILE).is_file():
            model.card = (folder / CARD_FILE).read_text(encoding="utf-8", errors="replace")
        model.license = _read_license(folder / HUB_CARD_FILE)
        return model.to(device).eval().requires_grad_(False)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        card: str | None = None,
        license: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Write a checkpoint folder with a model card for the hub, atomically.

        Args:
            save_directory: Replaced if it is a checkpoint folder.
            card: Markdown; None keeps the loaded card.
            license: The hub's name of the licence, such as "apache-2.0"; None keeps the loaded
                one, or "other".
            dtype: Precision of the stored weights, e.g. torch.float16; None keeps that of the
                model, which is float32 after loading.

        Raises:
            UserError: If the folder holds files that are not a checkpoint's.
        """
        folder = Path(save_directory).expanduser().absolute()
        check_replaceable(folder)
        with atomic_folder(folder) as temporary:
            write_model_files(temporary, self, card=card or self.card, dtype=dtype)
            self.generate_model_card(card=card, license=license).save(temporary / HUB_CARD_FILE)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        commit_message: str = "Upload a MaTe3D generator",
        create_pr: bool = False,
        **save_options: Any,
    ) -> str:
        """Upload the files of `save_pretrained`, and only those, in one commit.

        Args:
            repo_id: owner/name on the hub; created if missing.
            private: Whether a new repository is private; None is the owner's default.
            token: Token with write access; None uses HF_TOKEN or the one from `hf auth login`.
            branch: Branch to commit to; None is main.
            create_pr: Open a pull request instead of changing the branch.
            save_options: Arguments of `save_pretrained`.

        Returns:
            The URL of the commit.

        Raises:
            UserError: If the hub refuses or cannot be reached.
        """
        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as temporary, hub_errors(repo_id, branch):
            self.save_pretrained(Path(temporary) / "model", **save_options)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=Path(temporary) / "model",
                allow_patterns=list(FILES),
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
            )

    def generate_model_card(
        self, *, card: str | None = None, license: str | None = None
    ) -> ModelCard:
        """Return the card with the metadata that the hub indexes; see `save_pretrained`."""
        metadata = ModelCardData(**self._hub_mixin_info.model_card_data.to_dict())
        metadata.license = license or self.license
        text = card or self.card or EMPTY_CARD
        return ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}")


def write_model_files(
    folder: Path, model: PretrainedModel, *, card: str, dtype: torch.dtype | None
) -> None:
    """Write config, weights and card of a model into an existing folder."""
    document = {"format_version": FORMAT_VERSION, "generator": config_to_dict(model.config)}
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    save_weights(folder / GENERATOR_FILE, model.state_dict(), dtype=dtype)
    (folder / CARD_FILE).write_text(card or EMPTY_CARD, encoding="utf-8")


def _local_folder(path_or_hub_id: str | Path, revision: str | None) -> Path | None:
    """Return the local folder, or None for a hub id."""
    text, folder = str(path_or_hub_id), standing_folder(folder_or_asset(path_or_hub_id))
    if folder.is_dir():
        if revision is not None:
            raise UserError(
                f"revision={revision} only applies to the hub, but {folder} is a local folder"
            )
        return folder
    if folder.exists():
        advice = f"give the checkpoint folder that holds {CONFIG_FILE}"
        if folder.suffix == ".pkl":
            words = [f"source={folder}", f"output=checkpoints/{folder.stem}"]
            command = shlex.join(["python", "-m", "scripts.convert_checkpoint", *words])
            advice = f"convert it first: {command}"
        raise UserError(f"{folder} is a file, not a checkpoint folder; {advice}")
    # `outputs/genrator` is more likely a misspelt folder than a hub id.
    is_slip = isinstance(path_or_hub_id, Path) or Path(text.split("/")[0]).is_dir()
    if is_slip or not is_hub_id(text):
        raise UserError(
            f"no checkpoint at {text}: there is no such folder (hub ids are owner/name)"
            f"{where_to_find(folder, _WEIGHTS_INSIDE)}"
        )
    return None


def _download(repo_id: str, revision: str | None, options: dict[str, Any]) -> Path:
    """Download only a checkpoint's files, all from one commit; return their folder."""
    try:
        with hub_errors(repo_id, revision):
            options = {"revision": revision, "allow_patterns": list(FILES), **options}
            return Path(snapshot_download(repo_id, **options))
    except UserError as error:
        # The user may have meant a folder that does not exist.
        raise UserError(f"no checkpoint at {repo_id}: no such folder, and {error}") from error


def _build(path: Path, model_type: type[ModelT]) -> ModelT:
    """Return the model that a config file describes, with random weights."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        version = document.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path}: unsupported format_version {version} (expected {FORMAT_VERSION})"
            )
        values = document.get("generator")
        if values is None:
            advice = where_to_find(path.parent, _WEIGHTS_INSIDE)
            raise UserError(f"{path} does not describe a generator{advice}")
        if isinstance(values, str):
            raise UserError(
                f"{path.parent} is not a checkpoint but holds results made with"
                f" generator={values}; use that generator"
            )
        return model_type(config_from_dict(model_type.config_type, values))
    except OptionError as error:
        raise UserError(f"{path}: {error}") from None
    except UserError:
        raise
    # Malformed YAML and wrong values can raise anything.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path} does not describe a generator: {reason}") from None


def check_replaceable(folder: Path) -> None:
    """Raise if replacing a folder with a checkpoint would lose other files.

    Raises:
        UserError: If it is a file, or holds files that are not a checkpoint's.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file; choose another folder")
    if folder.is_dir():
        others = sorted(path.name for path in folder.iterdir() if path.name not in FILES)
        if others:
            raise UserError(
                f"{folder} also holds {', '.join(others[:4])}, which saving would delete;"
                " choose another folder"
            )


def _read_license(path: Path) -> str:
    try:
        return ModelCard.load(path, ignore_metadata_errors=True).data.license or UNKNOWN_LICENSE
    except (OSError, ValueError, yaml.YAMLError):
        return UNKNOWN_LICENSE
