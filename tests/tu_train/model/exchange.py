"""What each of three ranks does for test_exchange.py: both collectives at once, beside sums and pieces made by hand."""

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
        # The second gather is in place, as torch calls it, and all three are on their way at once.
        again[rank * length : (rank + 1) * length] = wholes[rank][:length]
        pending = [
            Gather()(found, wholes[rank][:length], group, async_op=True),
            ReduceScatter()(summed, wholes[rank], group, torch.distributed.ReduceOp.SUM, async_op=True),
            Gather()(again, again[rank * length : (rank + 1) * length], group, async_op=True),
        ]
        for work in reversed(pending):
            work.wait()
        pieces = torch.cat([whole[:length] for whole in wholes])
        mine = sum(whole[rank * length : (rank + 1) * length] for whole in wholes)
        assert torch.equal(found, pieces) and torch.equal(again, pieces) and torch.equal(summed, mine)
        assert Gather()(found.zero_(), wholes[rank][:length], group) is None and torch.equal(found, pieces)
        ReduceScatter()(summed.zero_(), wholes[rank], group, torch.distributed.ReduceOp.SUM)
        assert torch.equal(summed, mine)
    (Path(sys.argv[1]) / f"{rank}.done").touch()
    torch.distributed.destroy_process_group()
