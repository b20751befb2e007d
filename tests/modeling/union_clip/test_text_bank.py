"""The bank of texts: what is looked up is what would be encoded, once, by today's weights."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL_CLIP

from vrd_d2.data.vocabulary import Vocabulary
from vrd_d2.modeling.encoders.clip import TextEncoder, load_clip
from vrd_d2.modeling.union_clip.encoders import AdapterMLP, PhraseEncoder
from vrd_d2.modeling.union_clip.text_bank import TextBank
from vrd_d2.modeling.union_clip.texts import UnionTexts

CLASSES, PREDICATES, WIDTH = 5, 3, 16


def rows_of(codes):
    """Stand in for the text tower: rows that depend on the code alone."""
    rows = [torch.randn((3, WIDTH), generator=torch.Generator().manual_seed(c)) for c in codes]
    return F.normalize(torch.stack(rows), dim=-1)


class Encoder:
    def __init__(self):
        self.asked = []

    def __call__(self, codes):
        self.asked += codes
        return rows_of(codes)


def make(encode, folder="", key="key"):
    return TextBank(
        encode,
        num_classes=CLASSES,
        num_predicates=PREDICATES,
        width=WIDTH,
        folder=str(folder),
        key=key,
        batch=2,
    )


@pytest.fixture(params=["memory", "file"])
def folder(request, tmp_path):
    return "" if request.param == "memory" else tmp_path / "bank"


def check(blocks, codes):
    for code, block in zip(codes, blocks, strict=True):
        torch.testing.assert_close(block.float(), rows_of([code])[0], atol=5e-4, rtol=0)


def test_every_block_is_encoded_once_and_read_as_it_was(folder):
    encode = Encoder()
    bank = make(encode, folder)
    for codes in ([7, 0, 24, 3, 11], [3, 24, 8], []):
        check(bank.blocks(codes), codes)
    assert encode.asked == [7, 0, 24, 3, 11, 8]


def test_a_file_serves_later_banks_and_other_processes(tmp_path):
    first, second = Encoder(), Encoder()
    make(first, tmp_path).blocks([1, 2])
    bank = make(second, tmp_path)
    check(bank.blocks([2, 4, 1]), [2, 4, 1])
    assert second.asked == [4]
    other = Encoder()
    make(other, tmp_path, key="other weights").blocks([1])
    assert other.asked == [1]


def test_half_written_blocks_are_encoded_again(tmp_path):
    make(Encoder(), tmp_path).blocks([1])
    torch.from_file(str(tmp_path / "key.f16"), True, 25 * 3 * WIDTH, dtype=torch.float16)[
        3 * WIDTH + 20 : 6 * WIDTH
    ] = 0
    encode = Encoder()
    check(make(encode, tmp_path).blocks([1]), [1])
    assert encode.asked == [1]


@pytest.mark.parametrize("size", [7, 2401, 5000])
def test_a_file_of_another_size_is_named_and_made_again(size, tmp_path, caplog):
    (tmp_path / "key.f16").write_bytes(b"x" * size)
    check(make(Encoder(), tmp_path).blocks([1, 24]), [1, 24])
    (line,) = [record.getMessage() for record in caplog.records]
    for part in ("MODEL.UNION_CLIP.TEXT_BANK", "key.f16", f" {size} ", " 2400"):
        assert part in line
    encode = Encoder()
    check(make(encode, tmp_path).blocks([24, 1]), [24, 1])
    assert encode.asked == [] and len(caplog.records) == 1


def test_a_block_that_is_not_finite_is_made_again(tmp_path):
    make(Encoder(), tmp_path).blocks([1])
    stored = np.memmap(tmp_path / "key.f16", np.float16, "r+", shape=(25, 3, WIDTH))
    stored[1, 2, 5] = np.nan
    encode = Encoder()
    check(make(encode, tmp_path).blocks([1]), [1])
    assert encode.asked == [1]


@pytest.mark.parametrize("make_odd", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("x")])
def test_what_is_no_regular_file_is_refused(make_odd, tmp_path):
    make_odd(tmp_path / "key.f16")
    with pytest.raises(ValueError, match=r"MODEL\.UNION_CLIP\.TEXT_BANK.*key\.f16"):
        make(Encoder(), tmp_path)
    assert not (tmp_path / "x").exists()


def test_a_full_disk_is_told_once_and_blocks_go_to_memory(tmp_path):
    """In a process of its own, whose files may not grow beyond three blocks."""
    script = f"""
import logging, resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_text_bank import Encoder, check, make
logging.basicConfig(stream=sys.stdout, format="%(message)s")
make(Encoder(), {str(tmp_path)!r}).blocks([0])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 96, 3 * 96))
encode = Encoder()
bank = make(encode, {str(tmp_path)!r})
for codes in ([0, 1, 2], [3, 24], [24, 3, 1]):
    check(bank.blocks(codes), codes)
print(encode.asked)
"""
    command = [sys.executable, "-c", script]
    tests = Path(__file__).parents[2]
    paths = os.pathsep.join([str(tests), *sys.path])
    found = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert found.returncode == 0, found.stderr
    told, asked = found.stdout.splitlines()
    assert "key.f16" in told and asked == "[1, 2, 3, 24]"


def _fill(folder, seed):
    order = torch.randperm(25, generator=torch.Generator().manual_seed(seed)).tolist()
    bank = make(rows_of, folder)
    for code in order:
        check(bank.blocks([code]), [code])


def test_processes_fill_one_file_together(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(tmp_path, seed)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    encode = Encoder()
    check(make(encode, tmp_path).blocks(list(range(25))), range(25))
    assert encode.asked == []


VOCABULARY = Vocabulary(("man", "dog", "fire hydrant"), ("on", "in front of"))
PROMPTS = ["{subject} {predicate} {object}", "a {subject} {predicate} a {object}"]


@pytest.fixture
def parts(tmp_path):
    path = tmp_path / "small_clip.json"
    path.write_text(json.dumps(SMALL_CLIP))
    torch.manual_seed(0)
    return load_clip(str(path))


def make_texts(parts, *, adapter=None, prompts=PROMPTS, folder=""):
    encoder = PhraseEncoder(parts, trained_blocks=0, adapter=adapter, chunk=5)
    return encoder, UnionTexts(
        encoder,
        VOCABULARY,
        relation_prompts=prompts,
        entity_prompts=["a {object}"],
        null_text="null relation",
        bank_folder=folder,
    )


@torch.no_grad()
def test_blocks_are_the_texts_of_their_class_pair(parts):
    """The frozen text encoder of RelCLIP, one text at a time, is the reference."""
    encoder, texts = make_texts(parts)
    encode = TextEncoder(parts)
    blocks = texts.blocks([5, 0])  # dog, fire hydrant; man, man
    for block, subject, obj in zip(blocks, ["dog", "man"], ["fire hydrant", "man"], strict=True):
        expected = [
            F.normalize(
                encode(
                    [
                        f"{subject} {predicate} {obj}",
                        f"a {subject} {predicate} a {obj}",
                    ]
                ).mean(0),
                dim=0,
            )
            for predicate in VOCABULARY.predicates
        ]
        torch.testing.assert_close(block.float(), torch.stack(expected), atol=1e-3, rtol=0)
    torch.testing.assert_close(texts.null, encode(["null relation"])[0])
    names = texts.classes(encoder.upper)
    torch.testing.assert_close(names, encode([f"a {name}" for name in VOCABULARY.objects]))


@pytest.mark.parametrize("on_disk", [False, True])
def test_texts_follow_the_weights(parts, tmp_path, on_disk):
    folder = str(tmp_path / "bank") if on_disk else ""
    encoder, texts = make_texts(parts, adapter=AdapterMLP(16, residual=True), folder=folder)
    before, null = texts.blocks([1])[0].clone(), texts.null.clone()
    other = {name: value + 0.1 for name, value in encoder.state_dict().items() if "adapter" in name}
    encoder.load_state_dict(other, strict=False)
    after = texts.blocks([1])[0]
    assert (after - before).abs().max() > 0.01 and (texts.null - null).abs().max() > 0.01
    if on_disk:
        assert len(list((tmp_path / "bank").iterdir())) == 2


def test_an_unknown_field_of_a_template_is_refused(parts):
    with pytest.raises(ValueError, match=r"MODEL\.TEXT.*verb"):
        make_texts(parts, prompts=["{subject} {verb}"])
