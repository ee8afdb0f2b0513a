"""What a wheel carries, MIM's index, and the command vgg-mm."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest
import yaml
from modelindex.load_model_index import load as load_index

import vgg_mm
from vgg_mm import paper
from vgg_mm.cli.commands import main
from vgg_mm.cli.configs import CARRIED
from vgg_mm.errors import UserError

ROOT = Path(__file__).parents[1]
TOP = ["LICENSE", "README.md", "configs", "model-index.yml", "pyproject.toml", "setup.py", "tools"]


COMMANDS = set(
    "app benchmark compare convert_weights dataset_stats describe dist_test dist_train export"
    " extract_features fuse linear_svm make_cutouts make_demo make_scenes make_shards predict"
    " prepare_imagenet reproduce score_map slurm_train stress_resume style tables test tile_jpegs"
    " train".split()
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what a wheel, built from a copy of the sources, installs."""
    if int(version("setuptools").split(".")[0]) < 71:
        pytest.skip("building a wheel without isolation needs setuptools>=71")
    source, site = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    for name in [*TOP, "vgg_mm"]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name, **({"symlinks": True} if copy is shutil.copytree else {}))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*command, "-w", site, source], capture_output=True, text=True, cwd=source
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = site.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    wheel.unlink()
    return site


# Modules that other requirements than their own name bring, and who requires them.
BROUGHT = {"cv2": ("mmengine", "opencv-python"), "yapf": ("mmengine", "yapf")}
# Modules of which a machine may have none, or one of two distributions.
DISTRIBUTIONS = {"mmcv": "mmcv-lite", "mmseg": "mmsegmentation"}
DISTRIBUTIONS |= {"nvidia": "nvidia-dali-cuda130", "spdl": "spdl"}  # which bring others
# Files that import an extra's modules at their top, and are imported by what needs the extra alone.
OF_EXTRAS = ["tools/analysis/svm.py", "tools/app/page.py", "vgg_mm/models/skip_head.py"]
OF_EXTRAS += ["vgg_mm/upstream_mmdet.py"]


def imports(tree, at_top=True):
    """The top-level modules that a file imports, and whether it does when it is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if ast.unparse(node.func) in ("import_module", "library"):
                names, at_top = [node.args[0].value], False
        yield from ((name.partition(".")[0], at_top) for name in names)
        yield from imports(node, at_top and not isinstance(node, ast.FunctionDef))


def distributions(requirements):
    names = (re.match(r"[\w.-]+", requirement)[0] for requirement in requirements)
    return {re.sub("[-_.]+", "-", name).lower() for name in names}


def test_what_is_imported_is_declared(monkeypatch):
    declared = {}
    monkeypatch.setattr("setuptools.setup", lambda **kwargs: declared.update(kwargs))
    runpy.run_path(str(ROOT / "setup.py"))
    always = distributions(declared["install_requires"])
    extras = set().union(*map(distributions, declared["extras_require"].values()))
    installed = {module: found[0] for module, found in packages_distributions().items()}
    used = set()
    for path in [*ROOT.glob("vgg_mm/**/*.py"), *ROOT.glob("tools/**/*.py")]:
        name = path.relative_to(ROOT).as_posix()
        for module, at_top in imports(ast.parse(path.read_text())):
            if module in sys.stdlib_module_names or (ROOT / module).exists():
                continue
            if module in BROUGHT:
                by, what = BROUGHT[module]
                assert by in always and what in distributions(requires(by)), module
                continue
            found = DISTRIBUTIONS.get(module) or installed.get(module, module)
            (found,) = distributions([found])
            used.add(found)
            if at_top and module != "mmcv" and name not in OF_EXTRAS:
                assert found in always, f"{name} imports {module} of {found}"
            assert found in always | extras, f"{name} imports {module} of {found}"
    assert always <= used, "declared but not imported"


def listed(folder, *patterns):
    files = [path.relative_to(folder) for pattern in patterns for path in folder.glob(pattern)]
    return sorted(map(str, files))


def test_a_wheel_holds_configs_and_tools_where_mim_looks(installed):
    carried = installed / "vgg_mm/.mim"
    assert listed(carried / "configs", "**/*.*") == listed(ROOT / "configs", "**/*.py", "*.yml")
    assert listed(carried / "tools", "**/*.*") == listed(
        ROOT / "tools", "**/*.py", "**/*.sh", "**/*.html"
    )
    for name in ("model-index.yml", "tools/train.py", "configs/_base_/paper.py"):
        assert not (carried / name).is_symlink()
        assert (carried / name).read_text() == (ROOT / name).read_text()
    modules = listed(ROOT / "vgg_mm", "**/*.py")
    assert listed(installed / "vgg_mm", "**/*.py")[-10:] == modules[-10:]
    assert set(modules) <= set(listed(installed / "vgg_mm", "**/*.py"))
    (entries,) = installed.glob("*.dist-info/entry_points.txt")
    assert entries.read_text().strip() == ("[console_scripts]\nvgg-mm = vgg_mm.cli.commands:main")


def python(code, *arguments, path, cwd):
    env = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)


def test_get_config_and_the_command_work_from_a_wheel(installed, tmp_path):
    code = (
        "import sys, vgg_mm; print(vgg_mm.get_config('vgg16_d_jitter').model.backbone.arch,"
        "vgg_mm.__file__); sys.argv[0] = 'vgg-mm'; from vgg_mm.cli.commands import main; main()"
    )
    done = python(code, "describe", "demo", path=installed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"D {installed}")
    assert "conv5_2" in done.stdout
    assert not list(tmp_path.iterdir())


# Runs the lines of stdin one after the other: in processes of their own each would import torch.
IN_ONE_PROCESS = """
import sys
from vgg_mm.cli.commands import main
for line in sys.stdin.read().splitlines():
    sys.argv[1:] = line.split()
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            sys.exit(f"{line}: {ended.code}")
"""
ALONE = "import sys; sys.argv[0] = 'vgg-mm'; from vgg_mm.cli.commands import main; main()"


def test_every_command_runs_from_a_wheel(installed, jpeg_tree, tmp_path):
    sets = ["train_dataloader.dataset.dataset", "val_dataloader.dataset", "test_dataloader.dataset"]
    data = [f"{each}.type=vgg_mm.Folders {each}.data_root={jpeg_tree}" for each in sets]
    small = " ".join(
        [
            "--cfg-options model.backbone.width=2 model.head.in_channels=16 model.head.channels=8",
            "model.head.num_classes=2 train_dataloader.batch_size=4 train_cfg.max_epochs=1",
            *data,
        ]
    )
    best, image = "work_dirs/demo/best.pth", f"{jpeg_tree}/val/red/0.jpg"
    commands = f"""\
train demo {small}
test demo {best} --views both --out scores/demo.npz {small}
tables scores
fuse scores/demo.npz work_dirs/demo/scores.npz
compare scores/demo.npz --against work_dirs/demo/scores.npz
predict demo {best} {image} {small}
score_map demo {best} {image} {small}
extract_features demo {best} {jpeg_tree}/train --out features.npz {small}
linear_svm features.npz --folds 2
export demo {best} net.onnx --to onnx {small}
convert_weights {best} net.pth --to-arch A
describe demo
dataset_stats {jpeg_tree}/train --jobs 1
reproduce --scale micro --plan
tile_jpegs --help
prepare_imagenet --help
make_cutouts --help
make_demo --help
style --help
make_scenes scenes --images 8 --val-images 8 --classes 4
make_shards {jpeg_tree}/train shards
stress_resume --help
app --help
benchmark testing --help
"""
    scripts = f"""\
dist_train demo 1 --work-dir dist {small}
dist_test demo {best} 1 --work-dir dist {small}
slurm_train nodes name demo --work-dir slurm {small}
"""
    typed = [line.split()[0] for line in (commands + scripts).splitlines()]
    assert sorted(typed) == sorted(COMMANDS)

    srun = tmp_path / "programs/srun"
    srun.parent.mkdir()
    srun.write_text(
        "#!/bin/sh\n[ $MASTER_PORT -ge 20000 ] || exit 9\n"
        'while [ "$1" != python ]; do shift; done\necho "$@"\n'
    )
    srun.chmod(0o755)
    env = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    env["PATH"] = f"{srun.parent}:{env['PATH']}"
    calls = [
        ([IN_ONE_PROCESS], commands),
        *(([ALONE, *x.split()], "") for x in scripts.splitlines()),
    ]
    for arguments, stdin in calls:
        done = subprocess.run(
            [sys.executable, "-c", *arguments],
            input=stdin,
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "dist/best.pth").exists()


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["vgg-mm", *arguments])
        main()
        return capsys.readouterr().out

    return call


def test_the_command_lists_the_tools(command):
    for told in (command(), command("--help")):
        names = [line.split()[0] for line in told.splitlines()[2:]]
        assert set(names) == COMMANDS
        assert "train             Trains a config's net, then tests its best checkpoint" in told


def test_the_command_gives_the_tools_their_own_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command("train", "--help")
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("usage: train.py [-h]")


def test_the_command_runs_scripts_with_this_python(command, monkeypatch):
    ran = []
    monkeypatch.setattr("os.execvp", lambda *call: ran.append(call))
    monkeypatch.setenv("PATH", "/elsewhere")
    command("dist_train", "demo", "2")
    (call,) = ran
    assert call == ("bash", ["bash", str(CARRIED / "tools/dist_train.sh"), "demo", "2"])
    assert os.environ["PATH"] == f"{Path(sys.executable).parent}:/elsewhere"


def test_mistakes_in_names(command):
    with pytest.raises(SystemExit, match="no command trian. Did you mean 'train'"):
        command("trian")
    with pytest.raises(
        UserError, match="no config vgg16_d_jiter: .* Did you mean 'vgg16_d_jitter'"
    ):
        vgg_mm.get_config("vgg16_d_jiter")
    with pytest.raises(UserError) as error:
        vgg_mm.get_config("nothing/like/it.py")
    assert str(error.value).endswith(", vgg19_e_jitter, vgg8_b_5x5_256.")
    assert "_base_" not in str(error.value)


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    assert vgg_mm.get_config("demo").model.backbone.width == 12
    Path("mine.py").write_text("width = 5")
    assert vgg_mm.get_config("mine.py").width == 5


def test_mims_index_has_the_papers_figures_as_the_papers():
    models = {model.name: model for model in load_index(str(ROOT / "model-index.yml")).models}
    assert set(models) == {row.config for row in paper.TABLE_3}
    for row in paper.TABLE_3:
        model = models[row.config]
        assert model.config == f"configs/{row.config}.py" and (ROOT / model.config).is_file()
        assert model.metadata.data["Parameters"] == paper.PARAMETERS[row.arch]
        (result,) = model.results
        assert result.metrics == {
            "Top 1 Error (the paper's)": row.top1,
            "Top 5 Error (the paper's)": row.top5,
        }
    (collection,) = yaml.safe_load((ROOT / "configs/metafile.yml").read_text())["Collections"]
    assert {model.in_collection for model in models.values()} == {collection["Name"]}
