"""A fleet of replicas under a virtual clock.

model       what it is taken for
fleet       takes calls, and ends each of them once; starts, stops and loses replicas
replica     the server's own policy with cores of its own, and the calls it has
balancers   who gets the next call
arrivals    when calls come
plans       what happens besides calls: losses, rollouts
autoscaler  how many replicas there should be
result      what became of it all
"""
