"""RCL and the predicate loss over several processes equal one process on the whole batch."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from vrd_d2.modeling.processes import mean_count
from vrd_d2.modeling.relational_contrast import RelationalContrast, Triplets


class Model(torch.nn.Module):
    """An encoder before RCL, so that gradients must travel back through the gathered rows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = torch.nn.Linear(6, 3 * 8)
        self.classifier = torch.nn.Linear(8, 4)
        self.contrast = RelationalContrast(
            levels=["subject-predicate", "predicate-object"],
            visual_dim=8,
            text_dim=5,
            temperature=0.3,
            gamma=0.4,
        )

    def forward(self, inputs, text, words, labels):
        visual = Triplets(*self.encoder(inputs).chunk(3, dim=1))
        phrases = {"sp": words, "po": words.flip(1)}
        losses = self.contrast(visual, Triplets(*text.unbind(1)), phrases)
        losses["loss_predicate"] = F.cross_entropy(
            self.classifier(visual.relation), labels, reduction="sum"
        ) / mean_count(len(labels), labels.device)
        return losses


def make_data(total):
    generator = torch.Generator().manual_seed(3)
    inputs, text, words = (
        torch.randn(shape, generator=generator) for shape in [(total, 6), (total, 3, 5), (total, 4)]
    )
    labels = torch.randint(4, (total,), generator=generator)
    return inputs, text, F.normalize(words + 0.3, dim=-1), labels


def losses_and_gradients(model, data):
    losses = model(*data)
    sum(losses.values()).backward()
    return {name: loss.detach() for name, loss in losses.items()}, [
        parameter.grad.clone() for parameter in model.parameters()
    ]


CASES = {2: [(4, 4), (7, 2), (5, 0), (0, 0)], 3: [(3, 0, 6), (1, 1, 1)]}


def one_rank(cases, folder):
    rank = comm.get_rank()
    results = {}
    for counts in cases:
        start = sum(counts[:rank])
        data = [part[start : start + counts[rank]] for part in make_data(sum(counts))]
        model = DistributedDataParallel(Model())  # without find_unused_parameters
        results[counts] = losses_and_gradients(model, data)
    torch.save(results, Path(folder) / f"{rank}.pt")


@pytest.mark.parametrize("processes", CASES)
def test_loss_and_gradients_equal_one_process(processes, tmp_path, launch_on_cpu):
    cases = CASES[processes]
    launch_on_cpu(one_rank, processes, cases, str(tmp_path))
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]
    for counts in cases:
        ranks = [result[counts] for result in results]
        losses, gradients = losses_and_gradients(Model(), make_data(sum(counts)))
        for name, loss in losses.items():
            # Detectron2 logs, and DDP differentiates, the average over the processes.
            mean = sum(rank[0][name] for rank in ranks) / len(ranks)
            torch.testing.assert_close(mean, loss, atol=1e-5, rtol=1e-5)
        for rank in ranks:
            for got, expected in zip(rank[1], gradients, strict=True):
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
