"""Without its extras: one line that says what to install, and tasks and reports are read all the same."""

import subprocess
import sys

import pytest


def run(code, without):
    blocked = f"import sys; sys.modules[{without!r}] = None; "
    return subprocess.run([sys.executable, "-c", blocked + code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("without", ["sklearn", "scipy"])
def test_the_command_names_the_extra(without, tmp_path):
    arguments = ["evaluate", "--encoder", "hashing", "--task", f"search:{tmp_path}"]
    done = run(f"from mrl_retrieval.cli import main; sys.exit(main({arguments!r}))", without)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "pip install 'mrl-retrieval[evaluate]'" in done.stderr


def test_the_search_for_mteb_names_its_extra():
    done = run("import mrl_retrieval.evaluation.mteb_search", "mteb")
    assert "MissingExtra" in done.stderr and "pip install 'mrl-retrieval[mteb]'" in done.stderr


def test_a_report_is_read_without():
    code = (
        "from mrl_retrieval.evaluation import EvaluationReport, load_task\n"
        "from mrl_retrieval.encoder import EncoderCard\n"
        "report = EvaluationReport(EncoderCard(4), 'now', {}, {}, ())\n"
        "assert EvaluationReport.of_json(report.to_json()) == report\n"
        "print({'sklearn', 'scipy', 'mteb'} & {name for name, module in sys.modules.items() if module})"
    )
    done = run(code.replace("\n", "; "), "sklearn")
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr
