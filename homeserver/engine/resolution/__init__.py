"""State resolution for rooms in memory: what the branches of a fork resolve to, at the cost of what
they differ in. `resolver` asks the pure algorithm (`federation.graph.state_resolution`) and loads
what it misses; `citations` answers its one question about everything else."""
