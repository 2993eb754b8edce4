"""What each of three ranks does for test_exchange.py: both collectives, beside sums and pieces made by hand."""

import sys
from pathlib import Path

import torch

from tu_train.model.exchange import Gather, ReduceScatter


def everybodys(rank: int, length: int) -> torch.Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(rank))


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    group, rank, ranks = torch.distributed.group.WORLD, torch.distributed.get_rank(), torch.distributed.get_world_size()
    for length in (1, 1000):
        wholes = [everybodys(other, length * ranks) for other in range(ranks)]
        found, summed, again = torch.empty(length * ranks), torch.empty(length), torch.empty(length * ranks)
        again[rank * length : (rank + 1) * length] = wholes[rank][:length]
        Gather()(found, wholes[rank][:length], group)
        ReduceScatter()(summed, wholes[rank], group, torch.distributed.ReduceOp.SUM)
        Gather()(again, again[rank * length : (rank + 1) * length], group, async_op=True)  # in place, as torch calls it
        pieces = torch.cat([whole[:length] for whole in wholes])
        mine = sum(whole[rank * length : (rank + 1) * length] for whole in wholes)
        assert torch.equal(found, pieces) and torch.equal(again, pieces) and torch.equal(summed, mine)
    (Path(sys.argv[1]) / f"{rank}.done").touch()
    torch.distributed.destroy_process_group()
