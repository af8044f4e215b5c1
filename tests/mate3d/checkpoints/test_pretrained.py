"""Generators come from folders and from the hub by one path, and go to both whole."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard, ModelHubMixin, RepoUrl
from safetensors.torch import load_file

import mate3d
from mate3d.checkpoint import load_generator, save_generator
from mate3d.errors import UserError
from mate3d.generator import Generator
from tests.hub_server import HubServer, use_hub

FILES = ["README.md", "card.md", "config.yaml", "generator.safetensors"]
REPO = "someone/cats"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer().running() as server:
        use_hub(server, tmp_path / "cache", monkeypatch)
        yield server


@pytest.fixture
def checkpoint_files(tiny_generator: Generator, tmp_path: Path) -> dict[str, bytes]:
    save_generator(tmp_path / "published", tiny_generator, card="# A cat\n")
    return {path.name: path.read_bytes() for path in (tmp_path / "published").iterdir()}


def same_weights(first: Generator, second: Generator) -> bool:
    first_state, second_state = first.state_dict(), second.state_dict()
    return first_state.keys() == second_state.keys() and all(
        torch.equal(value, second_state[name]) for name, value in first_state.items()
    )


def test_package_offers_the_generator_and_imports_nothing_heavy_by_itself():
    assert mate3d.Generator is Generator
    assert issubclass(Generator, ModelHubMixin)
    code = "import sys, mate3d; mate3d.__version__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_saved_folder_has_the_documented_files_and_gives_the_same_pixels(
    tiny_generator, camera, tmp_path
):
    tiny_generator.save_pretrained(tmp_path / "model", card="# Mine\n", license="apache-2.0")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == FILES
    loaded = Generator.from_pretrained(tmp_path / "model")
    z = torch.randn(1, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(z, camera).image, tiny_generator(z, camera).image)
    assert loaded.config == tiny_generator.config
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_weights_stored_as_half_are_float32_once_loaded_and_saved_again(tiny_generator, tmp_path):
    tiny_generator.save_pretrained(tmp_path / "half", dtype=torch.float16)
    Generator.from_pretrained(tmp_path / "half").save_pretrained(tmp_path / "again")
    for name, dtype in (("half", torch.float16), ("again", torch.float32)):
        tensors = load_file(tmp_path / name / "generator.safetensors").values()
        assert {t.dtype for t in tensors if t.is_floating_point()} == {dtype}


def test_card_and_license_travel_with_the_model(tiny_generator, tmp_path):
    tiny_generator.save_pretrained(tmp_path / "first", card="# Mine\n", license="apache-2.0")
    load_generator(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert (tmp_path / "second" / "card.md").read_text() == "# Mine\n"
    card = ModelCard.load(tmp_path / "second" / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "mate3d")
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert "3d" in card.data.tags
    assert card.text.strip() == "# Mine"


def test_saving_replaces_a_checkpoint_but_never_other_files(tiny_generator, tmp_path):
    folder = tmp_path / "model"
    save_generator(folder, tiny_generator)
    tiny_generator.save_pretrained(folder, card="# New\n")
    assert (folder / "card.md").read_text() == "# New\n"
    (folder / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"notes\.txt"):
        tiny_generator.save_pretrained(folder, card="# Newer\n")
    with pytest.raises(UserError, match="is a file"):
        tiny_generator.save_pretrained(folder / "notes.txt")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_failed_save_leaves_the_old_checkpoint(tiny_generator, tmp_path, monkeypatch):
    tiny_generator.save_pretrained(tmp_path / "model", card="# Old\n")
    monkeypatch.setattr(ModelCard, "save", lambda self, path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny_generator.save_pretrained(tmp_path / "model", card="# New\n")
    assert (tmp_path / "model" / "card.md").read_text() == "# Old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_hub_gives_what_the_folder_gives_and_only_its_files(
    hub, checkpoint_files, tiny_generator, recwarn
):
    hub.add(REPO, checkpoint_files | {"video.mp4": b"large", "config.json": b"{}", "a/b.pkl": b"p"})
    loaded = Generator.from_pretrained(REPO)
    assert same_weights(loaded, tiny_generator)
    assert (loaded.config, loaded.card) == (tiny_generator.config, "# A cat\n")
    asked = [r.path for r in hub.requests if "/resolve/" in r.path]
    assert asked
    assert all(path.endswith(tuple(FILES)) for path in asked)
    assert not recwarn.list


def test_cache_serves_again_and_when_the_hub_is_away(hub, checkpoint_files, tiny_generator):
    hub.add(REPO, checkpoint_files)
    Generator.from_pretrained(REPO)
    Generator.from_pretrained(REPO)
    assert len(hub.downloads()) == 1
    hub.repositories[REPO].status = 503
    assert same_weights(Generator.from_pretrained(REPO), tiny_generator)
    assert same_weights(Generator.from_pretrained(REPO, local_files_only=True), tiny_generator)


def test_all_files_come_from_the_commit_that_was_asked_for(hub, checkpoint_files):
    repository = hub.add(REPO, checkpoint_files)
    first = repository.branches["main"]
    repository.commit(checkpoint_files | {"card.md": b"# Second\n"})
    repository.commit(checkpoint_files | {"card.md": b"# Draft\n"}, "draft")
    cards = [Generator.from_pretrained(REPO, revision=r).card for r in (first, None, "draft")]
    assert cards == ["# A cat\n", "# Second\n", "# Draft\n"]
    with pytest.raises(UserError, match="has no revision v9"):
        Generator.from_pretrained(REPO, revision="v9")


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "log in with"), (403, "is gated: accept its terms"), (500, "500"), (200, "no config")],
)
def test_repository_without_a_checkpoint_is_one_clear_line(hub, status, message):
    hub.add(REPO, {"model.pkl": b"x", "README.md": b"# Something else\n"}, status=status)
    with pytest.raises(UserError, match=f"no checkpoint at {REPO}: .*{message}") as caught:
        load_generator(REPO)
    assert "\n" not in str(caught.value)


def test_unknown_id_is_one_clear_line(hub):
    with pytest.raises(UserError, match="no such folder, and the hub has no public model"):
        load_generator("nobody/nothing")
    with pytest.raises(UserError, match="not in the local cache, and HF_HUB_OFFLINE"):
        Generator.from_pretrained("nobody/nothing", local_files_only=True)


@pytest.mark.parametrize("path", ["./typo", "typo", "/no/where", "runs/typo", "a/b/c", "~nobody/x"])
def test_mistyped_folder_never_reaches_the_hub(hub, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="no checkpoint at .*there is no such folder"):
        load_generator(path)
    assert not hub.requests


def test_path_that_is_no_folder_is_refused(hub, tmp_path):
    path = tmp_path / "my face.pkl"
    path.touch()
    with pytest.raises(
        UserError, match="is a file, not a checkpoint folder; convert it first"
    ) as e:
        load_generator(path)
    words = shlex.split(str(e.value).split("scripts.convert_checkpoint")[1])
    assert words == [f"source={path}", "output=checkpoints/my face"]
    (tmp_path / "model.bin").touch()
    with pytest.raises(UserError, match=r"is a file, .*; give the checkpoint folder that holds"):
        load_generator(tmp_path / "model.bin")
    with pytest.raises(UserError, match="revision=main only applies to the hub"):
        Generator.from_pretrained(tmp_path, revision="main")


@pytest.mark.parametrize(
    "text",
    [
        "generator: 3\n",
        "generator: !!python/object/apply:os.system [exit]\n",
        "format_version: 2\ngenerator: {}\n",
        "generator: {z_dim: ten}\n",
        # More memory than any machine has.
        "generator: {z_dim: 1000000000, w_dim: 1000000000}\n",
    ],
)
def test_config_that_describes_no_such_generator_is_refused(tiny_generator, tmp_path, text):
    save_generator(tmp_path / "model", tiny_generator)
    (tmp_path / "model" / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"model/config\.yaml") as caught:
        load_generator(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_push_sends_the_four_files_and_the_hub_gives_them_back(hub, tiny_generator, monkeypatch):
    def upload(api, repo_id, folder_path, allow_patterns, revision, **others):
        files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        assert sorted(files) == sorted(allow_patterns) == FILES and revision is None
        assert api.token == "hf_secret"
        return hub.add(repo_id, files).branches["main"]

    monkeypatch.setattr(HfApi, "create_repo", lambda api, id, **_: RepoUrl(f"{hub.endpoint}/{id}"))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    commit = tiny_generator.push_to_hub(REPO, card="# Mine\n", license="mit", token="hf_secret")
    files = hub.repositories[REPO].commits[commit]
    assert yaml.safe_load(files["README.md"].decode().split("---")[1])["license"] == "mit"
    loaded = Generator.from_pretrained(REPO)
    assert same_weights(loaded, tiny_generator)
    assert (loaded.card, loaded.license) == ("# Mine\n", "mit")


def test_push_without_rights_is_one_clear_line(hub, tiny_generator):
    with pytest.raises(UserError, match="hf auth login") as caught:
        tiny_generator.push_to_hub(REPO, token="hf_wrong")
    assert "hf_wrong" not in str(caught.value)
    with pytest.raises(UserError, match="is not a hub id"):
        tiny_generator.push_to_hub("a/b/c", token="hf_wrong")
    assert not hub.repositories
