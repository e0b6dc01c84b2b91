"""The speed-up of compact networks: as FLOPs promise, as a roofline allows, and as measured.

`python -m benchmarks roofline`: the small networks, with two sites collapsed. FLOPs leave out what
both forms do alike: norms, copies, activations, and the start of every operation. The roofline
counts it. No operation takes less than its bytes at the bandwidth of a map in the caches, its FLOPs
at the rate of the MLPs' products, or, for activations, its elements at the rate of one alone; and
the call and each operation have to start. All rates are measured in the same run. The possible
speed-up is that of two forms that both take their least time; where the deep form is further from
it, the measured one is higher. The operations are those of XLA: other fusions, other bounds.
"""
