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
from jaxtyping import Float, Int
from torch import Tensor

from tslab._checks import check_count, check_number
from tslab.geobias.background import Lattice, SearchWindow, background_density, local_frame, make_lattice, window_for
from tslab.geobias.neighbors import NeighborGraph, nearest_samples
from tslab.geobias.patterns import (
    CHUNK_SAMPLES,
    PatternGraph,
    blocks,
    candidates_near,
    graph_of_patterns,
    rounded,
    smallest,
)
from tslab.geobias.search import ranges, squared_chord

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
    graph: NeighborGraph, k: int = 4, density: float | None = None, *, overfull: bool = False
) -> Iterator[WeightChunk]:
    """Weight graphs of all neighbourhoods with their background points, in chunks; kept with the graph if small.

    ``density=None`` is the automatic background density. Errors and ``overfull``: see `build_weights`.
    """
    k = check_count("k", k, at_most=MOST_NEIGHBORS)
    key = ("weights", k, density, overfull)
    if key in graph.cache:
        yield from graph.cache[key]
        return
    keep = len(graph.indices) * k * 8 <= KEPT_WEIGHT_BYTES
    kept = []
    for chunk in build_weights(graph, k=k, density=density, overfull=overfull):
        if keep:
            kept.append(chunk)
        yield chunk
    if keep:
        graph.cache[key] = kept


def build_weights(
    graph: NeighborGraph,
    *,
    k: int = 4,
    density: float | None = None,
    overfull: bool = False,
    chunk_samples: int | None = None,
) -> Iterator[WeightChunk]:
    """Build the weight graphs of all neighbourhoods, chunk by chunk.

    Args:
        graph: neighbourhoods.
        k: nearest nodes that each node points to.
        density: of the background in points per steradian; None: ceil(5 n / (pi r^2)) for n samples.
        overfull: let nodes among more than k + 1 coincident samples point to k + 1, as the released code does.
        chunk_samples: samples per chunk; by default what suits the cache of a CPU or the free memory of a GPU.

    Errors: ``ValueError`` if k or the density cannot be, or a neighbourhood has too few nodes for k neighbours.
    """
    k = check_count("k", k, at_most=MOST_NEIGHBORS)
    if density is not None:
        check_number("density", density, above=0, hint='points per steradian, or "auto"')
    sizes = graph.sizes
    if len(sizes) == 0:
        return
    pattern_of, pattern_sizes = _patterns(sizes, density)
    values = background_density(pattern_sizes, graph.radius_rad) if density is None else [float(density)]
    lattice = make_lattice(values, graph.radius_rad, graph.device)
    nodes = sizes + lattice.count[pattern_of]
    if bool((nodes[sizes > 0] <= k).any()):
        raise ValueError(
            f"a neighbourhood has only {int(nodes[sizes > 0].min())} nodes (samples and background points), too few "
            f"for k = {k} neighbours; lower k or raise the density"
        )
    window = window_for(k, lattice)
    pattern_graph = graph_of_patterns(lattice, k, window)
    nearest = nearest_samples(graph, min(k + 12, 64))
    limit = chunk_samples or max(1, _chunk_samples(graph.device) * CHUNK_NEIGHBORS // max(k, CHUNK_NEIGHBORS))

    def build(bounds: tuple[int, int]) -> WeightChunk:
        return _Builder(graph, lattice, window, pattern_graph, pattern_of, k, *bounds).build(nearest, overfull)

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


def _patterns(sizes: Tensor, density: float | None) -> tuple[Tensor, Tensor]:
    """Which background pattern each neighbourhood has, and the neighbourhood size of each pattern."""
    if density is not None:
        return torch.zeros_like(sizes), sizes[:1]
    distinct, which = torch.unique(sizes.clamp_min(1), return_inverse=True)
    return which, distinct.cpu()


def _chunk_samples(device: torch.device) -> int:
    if device.type != "cuda":
        return CHUNK_SAMPLES
    free = torch.cuda.mem_get_info(device)[0]
    return max(CHUNK_SAMPLES, min(free // (4 * CHUNK_BYTES_PER_SAMPLE), 2_000_000))


class _Builder:
    """Builds one chunk. Nodes are the samples of its neighbourhoods, one after another."""

    def __init__(
        self,
        graph: NeighborGraph,
        lattice: Lattice,
        window: SearchWindow,
        pattern_graph: PatternGraph,
        pattern_of: Tensor,
        k: int,
        first: int,
        last: int,
    ) -> None:
        self.graph, self.lattice, self.window, self.pattern_graph = graph, lattice, window, pattern_graph
        self.k, self.first = k, first
        self.indptr = graph.indptr[first : last + 1] - graph.indptr[first]
        self.n = self.indptr.diff()
        self.pattern = pattern_of[first:last]
        self.m = lattice.count[self.pattern] * (self.n > 0)
        begin, end = int(graph.indptr[first]), int(graph.indptr[last])
        self.sample = graph.indices[begin:end]
        self.size = end - begin
        self.owner = torch.repeat_interleave(torch.arange(last - first, device=graph.device), self.n)
        self.xyz = graph.xyz[self.sample.long()]

    def build(self, nearest: tuple[Tensor, Tensor], overfull: bool) -> WeightChunk:
        k, device = self.k, self.xyz.device
        target, target_d2 = self._nearest_targets(*nearest)
        target, in_degree, mutual_edges, background_squares = self._with_background(target, target_d2)
        node = torch.arange(self.size, device=device)
        out_degree = torch.full((self.size,), k, device=device)
        if overfull:
            # coincident samples are neighbours in number: the next one after the k lowest is the (k + 1)-th
            following = target.max(1)[0] + 1
            extra = (target_d2[:, -1] == 0) & (following < node)
            out_degree += extra
            target = torch.cat([target, torch.where(extra, following, self.size)[:, None]], 1)
        edge = target < self.size
        in_degree = in_degree + torch.bincount(target[edge], minlength=self.size)
        padded = torch.cat([target, target.new_full((1, target.shape[1]), -1)])
        mutual = torch.zeros_like(node)
        for rows in blocks(node, target.shape[1] ** 2):
            mutual[rows] = ((padded[target[rows]] == rows[:, None, None]).any(-1) & edge[rows]).sum(1)
        mutual_edges = mutual_edges + self._per_neighborhood(mutual.double())
        num_edges = k * (self.n + self.m) + self._per_neighborhood((out_degree - k).double()).long()
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
            s1=num_edges + mutual_edges,
            s2=background_squares + self._per_neighborhood((out_degree + in_degree).double() ** 2),
        )

    def _per_neighborhood(self, values: Tensor) -> Tensor:
        return torch.zeros(len(self.n), dtype=torch.float64, device=values.device).index_add_(0, self.owner, values)

    def _nearest_targets(self, near: Tensor, near_d2: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest other samples of each node within its neighbourhood (node numbers), squared chords."""
        k, size, device = self.k, self.size, self.xyz.device
        target = torch.full((size, k), size, device=device)
        d2 = torch.full((size, k), torch.inf, dtype=torch.float64, device=device)
        if size == 0:
            return target, d2
        stride = len(self.graph.xyz)
        keys = self.owner * stride + self.sample
        place = self.graph.location[self.sample.long()]
        todo = torch.arange(size, device=device)
        for width in (k + 1, near.shape[1]):
            ids = near[place[todo], :width]
            position, member = self._find(keys, self.owner[todo], ids, stride)
            member &= (ids >= 0) & (position != todo[:, None])
            rank = torch.cumsum(member, 1)
            done = rank[:, -1] >= k
            wanted = member & (rank <= k) & done[:, None]
            row, column = wanted.nonzero().unbind(1)
            slot = (todo[row], rank[row, column] - 1)
            target[slot] = position[row, column]
            d2[slot] = near_d2[place[todo[row]], column]
            todo = todo[~done]
            if len(todo) == 0:
                return target, d2
        self._compare_with_all(todo, target, d2)
        return target, d2

    def _find(self, keys: Tensor, owner: Tensor, ids: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        wanted = owner[:, None] * stride + ids
        position = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
        return position, keys[position] == wanted

    def _compare_with_all(self, todo: Tensor, target: Tensor, d2: Tensor) -> None:
        """Fill rows ``todo`` by comparing each node with its whole neighbourhood."""
        order = torch.argsort(self.n[self.owner[todo]], stable=True)
        todo = todo[order]
        work = torch.cumsum(self.n[self.owner[todo]], 0)
        groups = torch.div(work, 64 * CHUNK_SAMPLES, rounding_mode="floor").cpu()
        for rows in todo.split(torch.unique_consecutive(groups, return_counts=True)[1].tolist()):
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

    def _with_background(self, target: Tensor, target_d2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Let background points compete: drop displaced edges, count edges from background points.

        Returns the targets with dropped edges padded, the in-degree from the background, and the share of the
        background in the number of mutual edges and in the sum of squared degrees.
        """
        k, lattice, device = self.k, self.lattice, self.xyz.device
        pattern = self.pattern[self.owner]
        place = self._local_places()
        key = target_d2 * SAMPLE_FIRST
        width = int(self.m.max()) if len(self.m) else 0
        extra_in = torch.zeros(len(self.m) * width, dtype=torch.long, device=device)
        accepted = torch.ones_like(target, dtype=torch.bool)
        pairs = []
        for rows, candidate, d2 in candidates_near(lattice, self.window, place, pattern):
            spacing = lattice.spacing[pattern[rows]]
            best, column = smallest(d2, candidate, spacing, k, self.pattern_graph.key_bits)
            if best.shape[1] < k:
                best = torch.nn.functional.pad(best, (0, k - best.shape[1]), value=torch.inf)
                column = torch.nn.functional.pad(column, (0, k - column.shape[1]))
            # a sample of rank s stays if fewer than k - s background points are nearer
            accepted[rows] = key[rows] <= best.flip(1)
            ahead = torch.searchsorted(key[rows], best, right=True)
            chosen = (ahead + torch.arange(k, device=device) < k) & (best < torch.inf)
            cell = self.owner[rows, None] * width + candidate.clamp_min(0)
            extra_in += torch.bincount(cell.gather(1, column)[chosen], minlength=len(extra_in))

            table = self.pattern_graph.offset[pattern[rows]][:, None] + candidate.clamp_min(0)
            reachable = (d2 * SAMPLE_FIRST <= self.pattern_graph.d2[table, k - 1]) & (candidate >= 0)
            pointed = torch.zeros_like(reachable).scatter_(1, column, chosen)
            row, slot = reachable.nonzero().unbind(1)
            pairs.append((cell[row, slot], rows[row], d2[row, slot], table[row, slot], pointed[row, slot]))
        target = torch.where(accepted, target, self.size)
        if not pairs:
            none = torch.zeros(0, dtype=torch.long, device=device)
            pairs = [(none, none, none, none, none)]
        cell, node, d2, table, pointed = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        chosen = self._chosen_by_background(cell, node, d2, table)
        in_degree = torch.bincount(node[chosen], minlength=self.size)
        mutual = 2 * self._per_neighborhood_of(node[chosen & pointed.bool()])
        displaced = torch.bincount(cell[chosen], minlength=len(extra_in))
        lost, squares = self._background_sums(displaced, extra_in, width)
        mutual = mutual + self.pattern_graph.mutual[self.pattern] * (self.n > 0) - lost
        return target, in_degree, mutual, squares

    def _per_neighborhood_of(self, node: Tensor) -> Tensor:
        return torch.bincount(self.owner[node], minlength=len(self.n)).double()

    def _local_places(self) -> Tensor:
        """Offset of each node from its centre in the frame (south, east, up)."""
        south, east, up = local_frame(self.graph.frame_lonlat[self.first : self.first + len(self.n)])
        center = torch.repeat_interleave(up, self.n, 0)
        offset = self.xyz - center
        axes = (torch.repeat_interleave(axis, self.n, 0) for axis in (south, east))
        x, y = ((offset * axis).sum(-1) for axis in axes)
        return torch.stack([x, y, (offset * center).sum(-1)], -1)

    def _chosen_by_background(self, cell: Tensor, node: Tensor, d2: Tensor, table: Tensor) -> Tensor:
        """Of (background point, sample) pairs, those in which the sample is among the point's k nearest."""
        if len(cell) == 0:
            return torch.zeros(0, dtype=torch.bool, device=cell.device)
        by_node = torch.argsort(node, stable=True)
        spacing = self.lattice.spacing[self.pattern[self.owner[node]]]
        distance = rounded(d2, spacing, self.pattern_graph.key_bits)
        order = by_node[torch.argsort(distance[by_node], stable=True)]
        order = order[torch.argsort(cell[order], stable=True)]
        ordered = cell[order]
        position = torch.arange(len(order), device=cell.device)
        new = torch.ones_like(ordered, dtype=torch.bool)
        new[1:] = ordered[1:] != ordered[:-1]
        rank = position - torch.cummax(torch.where(new, position, 0), 0)[0]
        room = (self.k - 1 - rank).clamp_min(0)
        limit = self.pattern_graph.d2[table[order], room]
        chosen = torch.zeros_like(new)
        chosen[order] = (rank < self.k) & (d2[order] * SAMPLE_FIRST <= limit)
        return chosen

    def _background_sums(self, displaced: Tensor, extra_in: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Mutual edges lost among background points, and the sum of their squared degrees."""
        k, base = self.k, self.pattern_graph
        cell = displaced.nonzero()[:, 0]
        count = displaced[cell]
        owner = torch.div(cell, max(width, 1), rounding_mode="floor")
        table = base.offset[self.pattern[owner]] + cell % max(width, 1)
        rank = torch.arange(k, device=cell.device)
        target = base.target[table]
        dropped = (rank >= k - count[:, None]) & (target >= 0)
        target_cell = owner[:, None] * width + target.clamp_min(0)
        change = extra_in - torch.bincount(target_cell[dropped], minlength=len(extra_in))
        # of a mutual pair both edges are no longer mutual; when both are dropped each counts one of the two
        reverse = base.reverse_rank[table]
        reverse_kept = reverse < k - displaced[target_cell]
        loss = (dropped & (reverse < k)) * torch.where(reverse_kept, 2, 1)
        lost = torch.zeros(len(self.n), dtype=torch.float64, device=cell.device)
        lost.index_add_(0, owner, loss.sum(1).double())

        changed = change.nonzero()[:, 0]
        owner = torch.div(changed, max(width, 1), rounding_mode="floor")
        degree = k + base.in_degree[base.offset[self.pattern[owner]] + changed % max(width, 1)]
        delta = change[changed]
        squares = base.squares[self.pattern] * (self.n > 0)
        squares = squares.index_add(0, owner, (delta * (2 * degree + delta)).double())
        return lost, squares
