"""The weight graphs: in every neighbourhood, which nodes are among the k nearest of which.

A neighbourhood's nodes are its n samples and its m background points; node i points to the k nodes nearest to it.
Built one neighbourhood at a time this takes (n + m)^2 distances. `build_weights` builds all neighbourhoods together,
in chunks of samples, from three observations:

- *sample to sample*: the k nearest samples inside a neighbourhood are the first k of the sample's nearest among all
  samples that belong to it. That list is made once; the few samples for which it ends too early compare with all
  samples of their neighbourhood;
- *sample and background*: a place on the ring pattern sees its nearest pattern points by arithmetic (its ring, its
  azimuth), so about 15 candidates replace m. A sample can enter the list of a background point only if it is
  nearer than the k-th of that point's own kind, a number that depends on the pattern alone;
- *background to background*: the pattern's own graph is made once per pattern; samples only displace its last edges.

What is kept is what any statistic of marks needs: the sample-to-sample edges, how often each sample is pointed to, and
two sums over the whole graph (for exact moments). Background points carry the value zero and need not be kept.

Ties: of two nodes at equal distance a sample comes before a background point (to a relative 1e-9 of the squared
distance: the centre ties with whole rings by construction), a lower sample before a higher one, a lower point number
before a higher one. Distances among samples are compared as float64; around background points, distances that agree
to 2^-32 of the squared spacing count as equal (fewer bits for k > 32, whose neighbours are far).

The released code asks its search tree for k + 1 nodes and removes the node itself. Where more than k + 1 samples
coincide the tree need not return the node itself, and such a node keeps k + 1 targets. ``overfull=True`` reproduces
that: of coincident samples the lowest k + 1 are returned for all of them.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab.geobias.background import (
    CHUNK_SAMPLES,
    DISTANCE_BITS,
    PatternGraph,
    background_density,
    blocks,
    candidates_near,
    graph_of_patterns,
    local_frame,
    make_lattice,
    pick,
    rounded,
    segment_sum,
    smallest,
)
from tslab.geobias.neighbors import NeighborGraph, nearest_samples, ranges, squared_chord

SAMPLE_FIRST = 1 - 1e-9
"""Squared distances to samples are compared with those to background points after this factor."""

CHUNK_BYTES_PER_SAMPLE = 8_000
"""Measured working memory per sample of a chunk; decides the chunk on a GPU."""

CHUNK_NEIGHBORS = 8
"""The k up to which a chunk has its full size; beyond, it shrinks as k grows, so that memory does not grow."""

MOST_NEIGHBORS = 1000
"""The largest k: the work grows with its square."""

KEPT_WEIGHT_BYTES = 1 << 30
"""Weight graphs larger than this are built again for each use instead of being kept."""


@dataclass(frozen=True)
class WeightChunk:
    """Weight graphs of the neighbourhoods ``first`` to ``first + len(n)``.

    Attributes:
        first: index of the first neighbourhood.
        n, m: samples and background points of each neighbourhood.
        num_edges: W, edges of each graph: k (n + m), and more if nodes are overfull.
        sample: internal sample of each node, neighbourhood by neighbourhood.
        target: nodes (positions in ``sample``) that each node points to, padded with ``len(sample)``.
        out_degree: k, or k + 1 for an overfull node.
        in_degree: number of nodes, background included, that point to each node.
        mutual: number of targets of each node that point back.
        s1: W + number of edges whose reverse is an edge too, of each graph (Cliff and Ord's S1).
        s2: sum over all nodes of (out-degree + in-degree)^2, of each graph (Cliff and Ord's S2).
        cache: what scores have derived from the chunk and may need again.
    """

    first: int
    n: Int[Tensor, " c"]
    m: Int[Tensor, " c"]
    num_edges: Int[Tensor, " c"]
    sample: Int[Tensor, " e"]
    target: Int[Tensor, "e k"]
    out_degree: Int[Tensor, " e"]
    in_degree: Int[Tensor, " e"]
    mutual: Int[Tensor, " e"]
    s1: Float[Tensor, " c"]
    s2: Float[Tensor, " c"]
    cache: dict[str, Any] = field(default_factory=dict, repr=False)


def weight_graphs(
    graph: NeighborGraph, k: int = 4, density: float | None = None, *, overfull: bool = False, sums: bool = True
) -> Iterator[WeightChunk]:
    """Weight graphs of all neighbourhoods with their background points, in chunks; kept with the graph if small.

    ``density=None`` is the automatic background density. Errors, ``overfull`` and ``sums``: see `build_weights`.
    """
    key = ("weights", k, density, overfull, sums)
    for known in (key, (*key[:-1], True)):
        if known in graph.cache:
            return iter(graph.cache[known])
    chunks = build_weights(graph, k=k, density=density, overfull=overfull, sums=sums)
    if len(graph.indices) * k * 8 > KEPT_WEIGHT_BYTES:
        return chunks
    graph.cache[key] = list(chunks)
    return iter(graph.cache[key])


def build_weights(
    graph: NeighborGraph,
    *,
    k: int = 4,
    density: float | None = None,
    overfull: bool = False,
    sums: bool = True,
    chunk_samples: int | None = None,
) -> Iterator[WeightChunk]:
    """Build the weight graphs of all neighbourhoods, chunk by chunk.

    Args:
        graph: neighbourhoods.
        k: nearest nodes that each node points to.
        density: of the background in points per steradian; None: ceil(5 n / (pi r^2)) for n samples.
        overfull: let nodes among more than k + 1 coincident samples point to k + 1, as the released code does.
        sums: make ``s1`` and ``s2``, which only the exact moments of the joint null need; NaN otherwise.
        chunk_samples: samples per chunk; by default what suits the cache of a CPU or the free memory of a GPU.

    Errors: ``ValueError`` if k or the density cannot be, or a neighbourhood has too few nodes for k neighbours.
    """
    k = check_count("k", k, at_most=MOST_NEIGHBORS)
    if density is not None:
        check_number("density", density, above=0, hint='points per steradian, or "auto"')
    sizes = graph.sizes
    if len(sizes) == 0:
        return
    if density is None:
        distinct, pattern_of = torch.unique(sizes.clamp_min(1), return_inverse=True)
        lattice = make_lattice(background_density(distinct, graph.radius_rad), graph.radius_rad, graph.device)
    else:
        pattern_of = torch.zeros_like(sizes)
        lattice = make_lattice([float(density)], graph.radius_rad, graph.device)
    nodes = (sizes + lattice.count[pattern_of])[sizes > 0]
    if bool((nodes <= k).any()):
        raise ValueError(
            f"a neighbourhood has only {int(nodes.min())} nodes, too few for k = {k}; lower k or raise the density"
        )
    patterns = graph_of_patterns(lattice, k)
    nearest = nearest_samples(graph, min(k + 12, 64))
    fitting = CHUNK_SAMPLES
    if graph.device.type == "cuda":
        free = torch.cuda.mem_get_info(graph.device)[0]
        fitting = max(CHUNK_SAMPLES, min(free // (4 * CHUNK_BYTES_PER_SAMPLE), 2_000_000))
    limit = chunk_samples or max(1, fitting * CHUNK_NEIGHBORS // max(k, CHUNK_NEIGHBORS))

    def build(bounds: tuple[int, int]) -> WeightChunk:
        return _Builder(graph, patterns, pattern_of, *bounds).build(nearest, overfull, sums)

    cost = (sizes + lattice.count[pattern_of] // 8 + 1).cpu()
    yield from _in_threads(build, ranges(cost, 2 * limit), graph.device)


def _in_threads(
    build: Callable[[tuple[int, int]], WeightChunk], parts: Iterator[tuple[int, int]], device: torch.device
) -> Iterator[WeightChunk]:
    """Build chunks in order, on a CPU one per core, each with single-threaded tensor operations.

    The operations are small; splitting each over the cores would make the cores wait for one another at every one.
    """
    workers = torch.get_num_threads()
    if device.type != "cpu" or workers == 1:
        yield from map(build, parts)
        return
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            while some := list(islice(parts, 16 * workers)):  # a few at a time: they are kept until they are asked for
                yield from pool.map(build, some)
    finally:
        torch.set_num_threads(workers)


def counted(index: Int[Tensor, "*i"], used: Bool[Tensor, "*i"], size: int) -> Int[Tensor, " {size}"]:
    """How often each number is among the used ones of an index, as ``bincount`` of these, but faster."""
    numbers = index.where(used, 0).flatten()
    return torch.zeros(size, dtype=torch.long, device=index.device).index_add_(0, numbers, used.flatten().long())


class _Builder:
    """Builds one chunk. Nodes are the samples of its neighbourhoods, cells their background points, both one
    neighbourhood after another."""

    def __init__(self, graph: NeighborGraph, patterns: PatternGraph, pattern_of: Tensor, first: int, last: int) -> None:
        self.graph, self.base, self.lattice = graph, patterns, patterns.lattice
        self.k, self.first = patterns.d2.shape[1], first
        self.indptr = graph.indptr[first : last + 1] - graph.indptr[first]
        self.n = self.indptr.diff()
        self.pattern = pattern_of[first:last]
        self.m = self.lattice.count[self.pattern] * (self.n > 0)
        self.sample = graph.indices[int(graph.indptr[first]) : int(graph.indptr[last])]
        self.size = len(self.sample)
        which = torch.arange(last - first, device=graph.device)
        self.owner, self.cell_owner = (torch.repeat_interleave(which, sizes) for sizes in (self.n, self.m))
        self.cell_of_point = (
            torch.cumsum(self.m, 0) - self.m - self.lattice.offset[self.pattern]
        )  # less the lattice's row
        self.xyz = pick(graph.xyz, self.sample)

    def build(self, nearest: tuple[Tensor, Tensor], overfull: bool, sums: bool) -> WeightChunk:
        k, device = self.k, self.xyz.device
        target, target_d2 = self._nearest_targets(*nearest)
        target, in_degree, mutual_edges, squares = self._with_background(target, target_d2, sums)
        node = torch.arange(self.size, device=device)
        out_degree = torch.full((self.size,), k, device=device)
        if overfull:
            # coincident samples are neighbours in number: the next one after the k lowest is the (k + 1)-th
            following = target.max(1)[0] + 1
            extra = (target_d2[:, -1] == 0) & (following < node)
            out_degree += extra
            target = torch.cat([target, torch.where(extra, following, self.size)[:, None]], 1)
        edge = target < self.size
        in_degree = in_degree + counted(target, edge, self.size)
        padded = torch.cat([target, target.new_full((1, target.shape[1]), -1)])
        mutual = torch.zeros_like(node)
        for rows in blocks(node, target.shape[1] ** 2):
            mutual[rows] = ((pick(padded, target[rows]) == rows[:, None, None]).any(-1) & edge[rows]).sum(1)
        num_edges = k * self.m + segment_sum(out_degree.double(), self.n).long()
        return WeightChunk(
            first=self.first,
            n=self.n,
            m=self.m,
            num_edges=num_edges,
            sample=self.sample,
            target=target.int(),
            out_degree=out_degree.int(),
            in_degree=in_degree.int(),
            mutual=mutual.int(),
            s1=num_edges + mutual_edges + segment_sum(mutual.double(), self.n),
            s2=squares + segment_sum((out_degree + in_degree).double() ** 2, self.n),
        )

    def _nearest_targets(self, near: Tensor, near_d2: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest other samples of each node within its neighbourhood (node numbers), squared chords."""
        k, size, device = self.k, self.size, self.xyz.device
        target = torch.full((size, k), size, device=device)
        d2 = torch.full((size, k), torch.inf, dtype=torch.float64, device=device)
        stride = len(self.graph.xyz)
        keys = self.owner * stride + self.sample
        place = pick(self.graph.location, self.sample)
        todo = torch.arange(size, device=device)
        for width in (k + 1, near.shape[1]):
            ids = pick(near, place[todo])[:, :width]
            wanted = self.owner[todo, None] * stride + ids
            position = torch.searchsorted(keys, wanted).clamp_max(size - 1)
            member = (pick(keys, position) == wanted) & (ids >= 0) & (position != todo[:, None])
            rank = torch.cumsum(member, 1)
            done = rank[:, -1] >= k
            row, column = (member & (rank <= k) & done[:, None]).nonzero().unbind(1)
            slot = (todo[row], rank[row, column] - 1)
            target[slot] = position[row, column]
            d2[slot] = near_d2[place[todo[row]], column]
            todo = todo[~done]
        self._compare_with_all(todo, target, d2)
        return target, d2

    def _compare_with_all(self, todo: Tensor, target: Tensor, d2: Tensor) -> None:
        """Fill rows ``todo`` by comparing each node with its whole neighbourhood."""
        work, order = torch.sort(self.n[self.owner[todo]], stable=True)
        for begin, end in ranges(work.cpu(), 64 * CHUNK_SAMPLES):
            rows = todo[order[begin:end]]
            owner = self.owner[rows]
            width = int(self.n[owner].max())
            column = torch.arange(width, device=rows.device)
            other = self.indptr[owner, None] + column
            usable = (column < self.n[owner, None]) & (other != rows[:, None])
            other = other.clamp_max(self.size - 1)
            distance2 = torch.where(usable, squared_chord(self.xyz[rows, None], self.xyz[other]), torch.inf)
            ordered, which = torch.sort(distance2, dim=1, stable=True)
            ordered, which = ordered[:, : self.k], which[:, : self.k]
            found = torch.where(ordered < torch.inf, other.gather(1, which), self.size)
            target[rows, : found.shape[1]] = found
            d2[rows, : found.shape[1]] = ordered

    def _with_background(self, target: Tensor, target_d2: Tensor, sums: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Let background points compete: drop displaced edges, count edges from background points.

        Returns the targets with dropped edges padded, the in-degree from the background, and the share of the
        background in the number of mutual edges and in the sum of squared degrees, NaN without ``sums``.
        """
        k, base = self.k, self.base
        pattern, offset = pick(self.pattern, self.owner), pick(self.cell_of_point, self.owner)
        key = target_d2 * SAMPLE_FIRST
        rank = torch.arange(k, device=key.device)
        in_cell = torch.zeros_like(self.cell_owner)
        accepted = torch.ones_like(target, dtype=torch.bool)
        farthest = base.d2[:, k - 1].contiguous()
        found: list[tuple[Tensor, ...]] = [(rank[:0], key.flatten()[:0], rank[:0].bool(), rank[:0])]
        for rows, candidate, d2 in candidates_near(self.lattice, base.window, self._local_places(), pattern):
            best, column = smallest(self.lattice, pattern[rows], candidate, d2, k, base.key_bits)
            # a sample of rank s stays if fewer than k - s background points are nearer
            accepted[rows] = key[rows] <= best.flip(1)
            chosen = (torch.searchsorted(key[rows], best, right=True) + rank < k) & (best < torch.inf)
            cell = candidate + offset[rows, None]
            reachable = (d2 * SAMPLE_FIRST <= pick(farthest, candidate.clamp_min(0))) & (candidate >= 0)
            pointed = torch.zeros_like(reachable).scatter_(1, column, chosen)
            entry = reachable.flatten().nonzero()[:, 0]
            row = torch.div(entry, candidate.shape[1], rounding_mode="floor")
            found.append((*(pick(part.flatten(), entry) for part in (cell, d2, pointed)), pick(rows, row)))
            if sums:
                in_cell += counted(cell.gather(1, column), chosen, len(in_cell))
        cell, d2, pointed, node = (torch.cat(parts) for parts in zip(*found, strict=True))
        chosen = self._chosen_by_background(cell, node, d2)
        in_degree = counted(node, chosen, self.size)
        target = torch.where(accepted, target, self.size)
        if not sums:
            none = torch.full((len(self.n),), torch.nan, dtype=torch.float64, device=key.device)
            return target, in_degree, none, none
        mutual = counted(pick(self.owner, node), chosen & pointed, len(self.n))

        # the background's own edges: samples displace the last of each point
        shift = pick(self.cell_of_point, self.cell_owner)
        table = torch.arange(len(in_cell), device=key.device) - shift
        kept_edges = k - counted(cell, chosen, len(in_cell))
        points = pick(base.target, table)
        reached = (points + shift[:, None]).clamp_min(0)
        kept = (rank < kept_edges[:, None]) & (points >= 0)
        in_cell += counted(reached, kept, len(in_cell))
        back = kept & (pick(base.reverse_rank, table) < pick(kept_edges, reached))
        of_cells = segment_sum(torch.stack([back.sum(1), (k + in_cell) ** 2], 1).double(), self.m)
        return target, in_degree, 2 * mutual + of_cells[:, 0], of_cells[:, 1]

    def _local_places(self) -> Tensor:
        """Offset of each node from its centre in the frame (south, east, up)."""
        frame = local_frame(self.graph.frame_lonlat[self.first : self.first + len(self.n)])
        south, east, center = (torch.repeat_interleave(axis, self.n, 0) for axis in frame)
        offset = self.xyz - center
        return torch.stack([(offset * axis).sum(-1) for axis in (south, east, center)], -1)

    def _chosen_by_background(self, cell: Tensor, node: Tensor, d2: Tensor) -> Tensor:
        """Of (background point, sample) pairs, those in which the sample is among the point's k nearest."""
        base, owner = self.base, pick(self.owner, node)
        distance = rounded(d2, pick(self.lattice.spacing, pick(self.pattern, owner)), base.key_bits)
        order = torch.argsort(node, stable=True)
        order = pick(order, torch.argsort(pick((cell << DISTANCE_BITS) + distance, order), stable=True))
        run = torch.unique_consecutive(pick(cell, order), return_counts=True)[1]
        first = torch.repeat_interleave(torch.cumsum(run, 0) - run, run)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device) - first)
        point = cell - pick(self.cell_of_point, owner)
        limit = pick(base.d2.flatten(), point * self.k + (self.k - 1 - rank).clamp_min(0))
        return (rank < self.k) & (d2 * SAMPLE_FIRST <= limit)
