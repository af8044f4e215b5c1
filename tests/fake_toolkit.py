"""Compilers that only pretend: shell scripts that count their calls, wait or fail as told."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from torch_utils.kernel_build import toolchain

# A host compiler whose script holds the word TOO_NEW is refused, as by the real nvcc.
_NVCC = """#!/bin/sh
for out; do :; done
case " $* " in
*" --version "*)
  echo "Cuda compilation tools, release {release}, V{release}.7" ;;
*" --list-gpu-code "*)
  printf '%s\\n' sm_80 sm_86 sm_89 sm_90 ;;
*" -E "*)
  if grep -q TOO_NEW "$2"; then
    echo "host_config.h:137:2: error: #error -- unsupported GNU version! gcc versions later than" \\
      "15 are not supported! The nvcc flag ... can be used to override"
    exit 1
  fi ;;
*" -c "*)
  echo $$ >> {calls}
  {compiling}
  echo object > "$out" ;;
*)
  echo "a library of $*" > "$out" ;;
esac
"""


@dataclass(frozen=True)
class FakeToolkit:
    """A folder like CUDA_HOME, with a C++ compiler of its own."""

    home: Path

    @property
    def nvcc(self) -> Path:
        return self.home / "bin" / "nvcc"

    @property
    def host(self) -> Path:
        return self.home / "bin" / "g++"

    @property
    def calls(self) -> list[int]:
        """Process numbers of the compilations that were started."""
        path = self.home / "calls"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def write_nvcc(self, *, release: str = "13.0", compiling: str = ":") -> None:
        """Write the compiler; `compiling` is what it does when it compiles, in shell."""
        calls = f"'{self.home / 'calls'}'"
        write_script(self.nvcc, _NVCC.format(release=release, calls=calls, compiling=compiling))

    def use(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this process and what it starts take these tools, without a GPU driver."""
        monkeypatch.setenv("CUDA_HOME", str(self.home))
        monkeypatch.setenv("CUDAHOSTCXX", str(self.host))
        monkeypatch.setenv("MATE3D_CACHE", str(cache))
        monkeypatch.setenv("MATE3D_OPS", "auto")
        monkeypatch.setattr(toolchain, "driver_version", lambda: None)


def write_script(path: Path, text: str) -> Path:
    """Write a file that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def make_toolkit(home: Path) -> FakeToolkit:
    """Write an nvcc and a C++ compiler into a folder."""
    toolkit = FakeToolkit(home)
    toolkit.write_nvcc()
    write_script(toolkit.host, "#!/bin/sh\necho 'g++ (fake) 13.2.0'\n")
    return toolkit
