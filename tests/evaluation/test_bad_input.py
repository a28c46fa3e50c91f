"""What cannot be evaluated is said with both values and the remedy, before anything is encoded."""

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'mrl-retrieval[evaluate]'")

from mrl_retrieval.encoders.hashing import HashingEncoder
from mrl_retrieval.errors import DimensionError, DuplicateIdError, EncoderError, InvalidInput
from mrl_retrieval.evaluation import ClassificationTask, ClusteringTask, PairsTask, SearchTask, StsTask, evaluate
from tests.evaluation.common import documents, write_beir, write_jsonl


class Unused(HashingEncoder):
    def encode_document(self, texts, **kwargs):
        pytest.fail(f"{len(texts)} texts were encoded")


def labelled(path, *labels, **more):
    return write_jsonl(path, [{"text": f"text {n}", "label": label, **more} for n, label in enumerate(labels)])


def refused(*tasks, **arguments):
    with pytest.raises(InvalidInput) as caught:
        evaluate(Unused(64), tasks, **arguments)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_dims_above_the_encoders(tmp_path):
    good = f"search:{write_beir(tmp_path / 'a')}"
    assert "DimensionError: dims has 128" in refused(good, dims=[32, 128])
    assert "gives 64" in refused(good, dims=[128])
    for dims in ([0], [-1], [2.5], [True]):
        with pytest.raises(DimensionError):
            evaluate(Unused(64), good, dims=dims)


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ({"q1": {"nowhere": 1.0}}, "name the document 'nowhere'"),
        ({"nobody": {"d1": 1.0}}, "name the query 'nobody'"),
        ({"q1": {"d1": 0.0}}, "no query has a document with a judgement above 0"),
        ({}, "no query has a document"),
    ],
)
def test_judgements(tmp_path, gains, words):
    assert words in refused(f"search:{write_beir(tmp_path / 'a', gains)}")


def test_an_empty_corpus_and_ids_that_are_there_twice(tmp_path):
    gains = {"q1": {"d1": 1.0}}
    empty = write_beir(tmp_path / "empty", gains, corpus=[("d1", "", " ")])
    assert "the corpus is empty" in refused(f"search:{empty}")
    (empty / "corpus.jsonl").write_text("")
    assert "the corpus is empty" in refused(f"search:{empty}")
    twice = write_beir(tmp_path / "twice", gains, corpus=[*documents(), ("d1", "", "again")])
    assert refused(f"search:{twice}").startswith(DuplicateIdError.__name__) and "'d1' is there 2 times" in refused(
        f"search:{twice}"
    )


def test_folders_that_are_none(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert "is not there" in refused(f"search:{tmp_path}/absent")
    assert "is no folder" in refused(f"search:{tmp_path}/file")
    assert "has no corpus.jsonl" in refused(f"search:{tmp_path}/empty")
    folder = write_beir(tmp_path / "a")
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    assert evaluate("hashing:64", f"search:{folder}").tasks[0].counts["queries"] == 20
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    assert "has the qrels dev, train; choose one" in refused(f"search:{folder}")
    assert evaluate("hashing:64", f"search:{folder}?split=train").tasks[0].counts["queries"] == 1
    assert "has no qrels/none.tsv" in refused(f"search:{folder}?split=none")
    (folder / "qrels" / "dev.tsv").unlink()
    (folder / "qrels" / "train.tsv").unlink()
    assert "neither qrels/test.tsv nor qrels.tsv" in refused(f"search:{folder}")


def test_damaged_files(tmp_path):
    folder = write_beir(tmp_path / "a")
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "x"}\n{"_id": "d2"}\n')
    assert "corpus.jsonl:2: expected the fields _id and text" in refused(f"search:{folder}")
    (folder / "corpus.jsonl").write_text("{")
    assert "corpus.jsonl:1: not JSON" in refused(f"search:{folder}")
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": ["x"]}\n')
    assert "are strings" in refused(f"search:{folder}")
    folder = write_beir(tmp_path / "b")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\tmuch\n")
    assert "the score is 'much'" in refused(f"search:{folder}")


@pytest.mark.parametrize("kind", ["classification", "clustering"])
def test_labels(tmp_path, kind):
    one = labelled(tmp_path / "one.jsonl", *"aaaa")
    assert "have only the label 'a'; two classes are needed" in refused(f"{kind}:{one}")
    assert "no column 'topic'" in refused(f"{kind}:{one}?label=topic")
    assert "has no option 'colour'" in refused(f"{kind}:{one}?colour=red")
    assert "is not there" in refused(f"{kind}:{tmp_path}/absent.tsv")
    assert "is no file" in refused(f"{kind}:{tmp_path}")
    assert "holds no rows" in refused(f"{kind}:{labelled(tmp_path / 'none.jsonl')}")
    (tmp_path / "notes.txt").write_text("text")
    assert "name it .jsonl, .csv or .tsv" in refused(f"{kind}:{tmp_path}/notes.txt")
    empty = write_jsonl(tmp_path / "empty.jsonl", [{"text": " ", "label": "a"}, {"text": "x", "label": "b"}])
    assert "empty.jsonl:1: text is ' '" in refused(f"{kind}:{empty}")
    half = write_jsonl(
        tmp_path / "half.jsonl", [{"text": "x", "label": "a", "split": "test"}, {"text": "y", "label": "b"}]
    )
    assert "1 of 2 rows have 'split'" in refused(f"{kind}:{half}")
    wrong = labelled(tmp_path / "dev.jsonl", "a", "b", split="dev")
    assert "no row has the split 'test'" in refused(f"{kind}:{wrong}")


def test_classes_without_a_text_to_learn_from_or_to_test(tmp_path):
    assert "one text alone has the label 'b'" in refused(f"classification:{labelled(tmp_path / 'a.jsonl', *'aab')}")
    with pytest.raises(InvalidInput, match="the label 'c' is in the test, but no text to learn from"):
        ClassificationTask("t", ("x", "y"), ("a", "b"), ("z", "w"), ("a", "c"))
    with pytest.raises(InvalidInput, match="only the label 'a'"):
        ClassificationTask("t", ("x", "y"), ("a", "b"), ("z",), ("a",))
    with pytest.raises(InvalidInput, match="2 texts, but 1 labels"):
        ClusteringTask("t", ("x", "y"), ("a",))


def test_pairs_and_scores(tmp_path):
    def pairs(name, *scores, column="score"):
        rows = [{"sentence1": f"x {n}", "sentence2": "y", column: score} for n, score in enumerate(scores)]
        return write_jsonl(tmp_path / name, rows)

    assert "2 pairs have no correlation" in refused(f"sts:{pairs('a.jsonl', 1, 2)}")
    assert "every score is 3" in refused(f"sts:{pairs('b.jsonl', 3, 3, 3)}")
    assert "c.jsonl:2: score is 'high', expected a number" in refused(f"sts:{pairs('c.jsonl', 1, 'high', 3)}")
    assert "a score is not finite" in refused(f"sts:{pairs('d.jsonl', 1, 'nan', 3)}")
    assert "no column 'score'" in refused(f"sts:{pairs('e.jsonl', 1, 2, 3, column='gold')}")
    assert "expected 0 or 1" in refused(f"pairs:{pairs('f.jsonl', 0, 1, 2, column='label')}")
    assert "every pair has the label 1" in refused(f"pairs:{pairs('g.jsonl', 1, 1, column='label')}")
    with pytest.raises(InvalidInput, match="no pairs"):
        PairsTask("t", (), ())
    with pytest.raises(InvalidInput, match="text 2 of 6 is empty"):
        StsTask("t", ("x", " ", "z"), ("x", "y", "z"), (1.0, 2.0, 3.0))


@pytest.mark.parametrize("spec", ["", "search", "search:", "sarch:folder", "folder", "sts:?x=y"])
def test_no_task(spec):
    assert "expected one of search:FOLDER" in refused(spec)


def test_no_tasks_the_same_twice_and_what_is_none(tmp_path):
    assert "there are no tasks" in refused()
    good = f"search:{write_beir(tmp_path / 'a')}"
    assert "two tasks are called 'search:a'" in refused(good, good)
    assert "the options of" in refused(good + "?split")
    assert "is no task" in refused(7)
    for name in ("k", "candidates", "batch_size"):
        assert f"{name} must be a whole number" in refused(good, **{name: 0})


def test_a_query_without_text():
    with pytest.raises(InvalidInput, match="the query 'q' has no text"):
        SearchTask("t", ("a",), ("x",), ("q",), ("",), {"q": {"a": 1.0}})


def test_an_encoder_that_fails(tmp_path):
    class Broken(HashingEncoder):
        def encode_document(self, texts, **kwargs):
            raise RuntimeError("out of order")

    with pytest.raises(EncoderError, match="out of order"):
        evaluate(Broken(64), f"search:{write_beir(tmp_path / 'a')}")
