"""A certificate is its kind, and says over which vectors."""

import copy
import json
import pickle

import pytest

from mrl_retrieval.certificate import Certificate


def test_it_compares_and_prints_as_its_kind():
    certificate = Certificate("exact", 256, "int8")
    assert certificate == "exact"
    assert json.dumps({"certificate": certificate}) == '{"certificate": "exact"}'
    assert certificate.explained == "exact over all stored int8 vectors at 256 dims"
    assert Certificate("candidates", 64).explained == "exact over the candidates' stored vectors at 64 dims"


def test_it_stays_as_it_is():
    certificate = Certificate("exact", 256, "int8")
    with pytest.raises(AttributeError, match="cannot be changed"):
        certificate.dims = 3
    for other in (copy.copy(certificate), copy.deepcopy(certificate), pickle.loads(pickle.dumps(certificate))):
        assert (other, other.dims, other.dtype) == ("exact", 256, "int8")
