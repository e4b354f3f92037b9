"""Compile every Triton kernel for Hopper and Blackwell without a GPU, and look at the result.

``python -m dflash_sim.kernels.triton.compile_check`` prints a line per kernel, shape, architecture:
registers, stack, shared memory, matrix instructions and asynchronous copies in the machine code. A
spill, too much shared memory, or a matrix product that missed the tensor cores is a fault.

The launchers themselves are run, on ``meta`` tensors: tiles and specialisations are a GPU's.
TRITON_INTERPRET must not be set: interpreted functions cannot be compiled.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import triton
from dflash_sim.kernels.triton.compile_cases import CASES, Case
from dflash_sim.kernels.triton.configs import BLACKWELL, HOPPER
from dflash_sim.kernels.triton.launch import Launch, recording
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

PRODUCTS = ("attend", "expert_product", "chunk_factors", "chunk_walk")
SHARED_LIMIT_BYTES = 227 * 1024
TENSOR_CORE = {HOPPER: "HGMMA", BLACKWELL: "UTCHMMA"}
SASS_MMA = re.compile(r"\b(HGMMA|UTCHMMA|HMMA)\b")
SASS_COPY = re.compile(r"\b(LDGSTS|UTMALDG)\b")
POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
WORD = 2**31


@dataclass(frozen=True)
class Compiled:
    """A compiled kernel.

    Attributes
    ----------
    registers : per thread
    stack_bytes : per thread; anything above zero is a spill
    shared_bytes : per program
    mma, copies : instructions found, in alphabetical order
    """

    case: str
    kernel: str
    arch: int
    warps: int
    registers: int
    stack_bytes: int
    shared_bytes: int
    mma: tuple[str, ...]
    copies: tuple[str, ...]
    wants_mma: bool

    def faults(self) -> list[str]:
        """Say what is wrong with it."""
        found = []
        if self.stack_bytes:
            found.append(f"spills {self.stack_bytes} bytes per thread")
        if self.shared_bytes > SHARED_LIMIT_BYTES:
            found.append(f"needs {self.shared_bytes} bytes of shared memory")
        if self.wants_mma and TENSOR_CORE[self.arch] not in self.mma:
            found.append(f"has no {TENSOR_CORE[self.arch]}")
        return [f"{self.case} {self.kernel} sm_{self.arch}a {fault}" for fault in found]


def specialise(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], Any]]:
    """Signature, constants and alignment hints, as Triton's JIT would derive them."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    hints: dict[tuple[int], Any] = {}
    for index, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        special = not parameter.do_not_specialize
        if (
            parameter.is_constexpr
            or value is None
            or (special and type(value) is int and value == 1)
        ):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            hints[(index,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32" if -WORD <= value < WORD else "i64"
            if special and value % 16 == 0:
                hints[(index,)] = [["tt.divisibility", 16]]
    return signature, constants, hints


def disassemble(cubin: bytes) -> tuple[str, str]:
    """Resource usage and machine code of ``cubin``, by the tools that Triton ships."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def ask(tool: str, *options: str) -> str:
            command = [str(tools / tool), *options, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage, sass = ask("cuobjdump", "-res-usage"), ask("nvdisasm", "-ndf", "-c")
    return usage, sass


def compile_launch(case: Case, launch: Launch, arch: int) -> Compiled:
    """Compile ``launch`` for ``arch`` and read its resources."""
    signature, constants, hints = specialise(launch)
    names = launch.kernel.arg_names
    source = ASTSource(
        fn=launch.kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs=hints,
    )
    built = triton.compile(
        source,
        target=GPUTarget("cuda", arch, 32),
        options=launch.options,
    )
    usage, sass = disassemble(built.asm["cubin"])
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    if found is None:
        msg = f"cuobjdump said nothing about registers of {names}: {usage!r}"
        raise RuntimeError(msg)
    registers, stack, static, local = map(int, found.groups())
    name = launch.kernel.__name__.strip("_")
    return Compiled(
        case=case.name,
        kernel=name,
        arch=arch,
        warps=built.metadata.num_warps,
        registers=registers,
        stack_bytes=stack + local,
        shared_bytes=static + built.metadata.shared,
        mma=tuple(sorted(set(SASS_MMA.findall(sass)))),
        copies=tuple(sorted(set(SASS_COPY.findall(sass)))),
        wants_mma=case.tensor_cores and name in PRODUCTS,
    )


def check(arch: int, only: Sequence[str] = ("",)) -> Iterator[Compiled]:
    """Every kernel of every case whose name holds one of ``only``, compiled for ``arch``."""
    for case in CASES:
        if any(part in case.name for part in only):
            with recording(arch) as launches:
                case.run()
            for launch in launches:
                yield compile_launch(case, launch, arch)


def line(row: Compiled) -> str:
    """One row of the table."""
    return (
        f"{row.case:28} {row.kernel:16} sm_{row.arch}a {row.warps:5} {row.registers:5} "
        f"{row.stack_bytes:5} {row.shared_bytes:7} {'+'.join(row.mma) or '-':8} "
        f"{'+'.join(row.copies) or '-'}"
    )


HEADER = (
    f"{'case':28} {'kernel':16} {'arch':{len('sm_100a')}} {'warps':>5} {'regs':>5} {'stack':>5} "
    f"{'shared':>7} {'mma':8} copies"
)


def main(arguments: list[str]) -> int:
    """Print the table; the exit code is 1 if there is a fault."""
    parser = argparse.ArgumentParser(description="Compile the Triton kernels without a GPU.")
    parser.add_argument("--arch", type=int, action="append", choices=sorted(TENSOR_CORE))
    parser.add_argument(
        "--only", nargs="+", default=[""], help="cases whose name holds one of these"
    )
    options = parser.parse_args(arguments)
    for part in options.only:
        if not any(part in case.name for case in CASES):
            parser.error(f"no case is called {part!r}; have {[case.name for case in CASES]}")
    sys.stdout.write(HEADER + "\n")
    faults = []
    for arch in options.arch or sorted(TENSOR_CORE):
        for row in check(arch, options.only):
            sys.stdout.write(line(row) + "\n")
            faults += row.faults()
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
