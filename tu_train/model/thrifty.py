"""AdamW that keeps few bytes: weights in bfloat16, moments in 32, 8 or 4 bits, on the model's device or on the CPU.

A parameter goes through in pieces, in float32 each, so that no whole copy of it ever exists:

    m ← β₁m + (1 − β₁)g    v ← β₂v + (1 − β₂)g²    w ← (1 − ηλ)w − η · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)

What goes back into few bits is rounded up or down by chance, with the chances that make its mean right: a weight of
bfloat16 has eight digits in base two, so an update below 1/512 of it would be lost for good by rounding to nearest, and
the second moment, which falls by a thousandth a step, would never fall. Chance comes from (seed, step, parameter)
alone, so a resumed run makes the same choices.

A moment in b bits: a scale a block, its largest number, and of each number r of it, by then within 0 to 1, a level k of
L, standing for (k/L)ᵖ. p is 2 for the first moment, which has a sign too, and 4 for the second, whose numbers lie many
powers of ten apart. A second moment that is not zero never becomes zero: its step would have no bound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PIECE = 1 << 18
"""numbers that are in float32 at a time; a multiple of every block"""


@dataclass(frozen=True)
class Bits:
    """A form of moments."""

    bits: int
    block: int
    """numbers that share a scale"""

    @property
    def bytes_a_number(self) -> float:
        return self.bits / 8 + torch.float32.itemsize / self.block


FORMS = {"8bit": Bits(8, 256), "4bit": Bits(4, 128)}
POWERS = {"m": 2, "v": 4}


def moment_bytes(moments: str) -> float:
    """Bytes of both moments, for each parameter. `moments`: float32, 8bit or 4bit."""
    return 2 * (FORMS[moments].bytes_a_number if moments in FORMS else torch.float32.itemsize)


class ThriftyAdamW(torch.optim.Optimizer):
    def __init__(
        self, parameters: Sequence[Tensor], *, lr: float, weight_decay: float, moments: str = "float32", stochastic: bool = True,
        on_cpu: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        """`stochastic`: how bfloat16 weights are rounded; to nearest where not. `on_cpu`: moments stay there."""
        super().__init__(list(parameters), {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": weight_decay})
        self.form, self.stochastic, self.on_cpu, self.seed = FORMS.get(moments), stochastic, on_cpu, seed

    def begin(self, p: Tensor) -> dict[str, Tensor]:
        """State before the first step."""
        place = torch.device("cpu") if self.on_cpu else p.device
        state = {"step": torch.tensor(0.0)}
        for name in POWERS:
            if self.form is None:
                state[name] = torch.zeros(p.numel(), dtype=torch.float32, device=place)
            else:
                blocks = -(-p.numel() // self.form.block)
                state[name] = torch.zeros(blocks * self.form.block * self.form.bits // 8, dtype=torch.uint8, device=place)
                state[f"{name}_scale"] = torch.zeros(blocks, dtype=torch.float32, device=place)
        return state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        index = 0
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group, index)
                index += 1

    def _update(self, p: Tensor, group: dict[str, Any], index: int) -> None:
        state = self.state[p]
        if not state:
            state.update(self.begin(p))
        state["step"] += 1
        done, (beta1, beta2) = int(state["step"]), group["betas"]
        chance = torch.Generator(p.device)
        chance.manual_seed(int.from_bytes(hashlib.sha256(f"{self.seed}/{done}/{index}".encode()).digest()[:8], "big") >> 1)
        flat, gradient = p.view(-1), p.grad.reshape(-1)  # type: ignore[union-attr]
        for start in range(0, p.numel(), PIECE):
            at = slice(start, min(start + PIECE, p.numel()))
            w, g = flat[at].float(), gradient[at].float()
            m, v = (self._read(state, name, at, p.device) for name in POWERS)
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            root = (v / (1 - beta2**done)).sqrt_().add_(group["eps"])
            w.mul_(1 - group["lr"] * group["weight_decay"]).addcdiv_(m, root, value=-group["lr"] / (1 - beta1**done))
            flat[at] = rounded(w, chance) if p.dtype == torch.bfloat16 and self.stochastic else w.to(p.dtype)
            self._write(state, "m", at, m, chance)
            self._write(state, "v", at, v, chance)

    def _read(self, state: dict[str, Tensor], name: str, at: slice, device: torch.device) -> Tensor:
        if self.form is None:
            return state[name][at].to(device, copy=True)
        codes, scales = self._places(at)
        return unpacked(state[name][codes].to(device), state[f"{name}_scale"][scales].to(device), self.form, name)[: at.stop - at.start]

    def _write(self, state: dict[str, Tensor], name: str, at: slice, value: Tensor, chance: torch.Generator) -> None:
        if self.form is None:
            state[name][at] = value.to(state[name].device)
            return
        codes, scales = self._places(at)
        made, scale = packed(value, self.form, name, chance)
        state[name][codes], state[f"{name}_scale"][scales] = made.to(state[name].device), scale.to(state[name].device)

    def _places(self, at: slice) -> tuple[slice, slice]:
        """Of a piece among the codes, and among the scales."""
        assert self.form is not None
        block = self.form.block
        first, last = at.start // block, -(-at.stop // block)
        return slice(first * block * self.form.bits // 8, last * block * self.form.bits // 8), slice(first, last)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch's own would turn moments into the dtype of the weights. Raises ValueError for moments of another
        form."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        made = {}
        for index, entry in state_dict["state"].items():
            fresh = self.begin(parameters[index])
            if entry.keys() != fresh.keys() or any(entry[k].shape != t.shape or entry[k].dtype != t.dtype for k, t in fresh.items()):
                raise ValueError(f"moments of parameter {index} have another form")
            made[parameters[index]] = {k: entry[k].detach().to(t.device, copy=True) for k, t in fresh.items()}
        self.state.clear()
        self.state.update(made)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({k: v for k, v in saved.items() if k != "params"})


def rounded(x_N: Tensor, chance: torch.Generator) -> Tensor:
    """float32 → bfloat16, up or down so that the mean is `x_N`: of the 16 bits that go, a random number decides
    whether they carry."""
    noise = torch.randint(0, 1 << 16, x_N.shape, dtype=torch.int32, device=x_N.device, generator=chance)
    return (noise.add_(x_N.view(torch.int32)) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)


def packed(x_N: Tensor, form: Bits, name: str, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """-> codes [blocks · block · bits / 8] uint8 and scales [blocks] float32 of the moment `name`."""
    signed, power = name == "m", POWERS[name]
    levels = (1 << (form.bits - signed)) - 1
    x_BK = torch.nn.functional.pad(x_N, (0, -len(x_N) % form.block)).view(-1, form.block)
    scale_B = x_BK.abs().amax(1)
    share = x_BK.abs() / scale_B.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    low = share.pow(1 / power).mul_(levels).floor_().clamp_(max=levels - 1)
    below, above = (low / levels).pow_(power), ((low + 1) / levels).pow_(power)
    code = low.add_(torch.rand(low.shape, device=low.device, generator=chance) < (share - below).div_(above - below))
    # With a sign 0 to 2 · levels.
    code = torch.where(x_BK < 0, levels - code, levels + code) if signed else torch.where((x_BK > 0) & (code == 0), 1.0, code)
    codes = code.to(torch.uint8).view(-1)
    return (codes if form.bits == 8 else codes[0::2] << 4 | codes[1::2]), scale_B


def unpacked(codes: Tensor, scale_B: Tensor, form: Bits, name: str) -> Tensor:
    """The counterpart of `packed`, [blocks · block] float32."""
    signed, power = name == "m", POWERS[name]
    levels = (1 << (form.bits - signed)) - 1
    if form.bits == 4:
        codes = torch.stack((codes >> 4, codes & 15), 1).view(-1)
    share = codes.float().sub_(levels if signed else 0).div_(levels)
    value = share * share.abs() if signed else share.pow(power)
    return (value.view(-1, form.block) * scale_B[:, None]).view(-1)
