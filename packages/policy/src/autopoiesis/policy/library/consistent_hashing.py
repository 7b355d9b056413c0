"""Consistent hashing with bounded loads: a session keeps its replica unless that one is clearly overloaded.

Replicas are ranked for each session by highest random weight, so that one that leaves moves only its own sessions; the
first in rank whose load is below 1.25 times the mean takes the request. Sources: D. Thaler and C. Ravishankar, "Using
name-based mappings to increase hit rates", IEEE/ACM ToN 6(1), 1998; V. Mirrokni, M. Thorup and M. Zadimoghaddam,
"Consistent Hashing with Bounded Loads", SODA 2018.
"""

API = 1

SLACK = 1.25
MODULUS = 4294967296


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    key = request.session or request.seq
    total = sum(r.running + r.waiting for r in replicas)
    bound = SLACK * (total + 1) / len(replicas)
    free = [r for r in replicas if r.running + r.waiting + 1 <= max(bound, 1.0)]
    return Assign(max(free or replicas, key=lambda r: weight(key, r.id)).index)


def weight(key, replica):
    mixed = (key * 2654435761 + replica * 2246822519 + 374761393) % MODULUS
    mixed = (mixed ^ (mixed >> 15)) * 2246822519 % MODULUS
    mixed = (mixed ^ (mixed >> 13)) * 3266489917 % MODULUS
    return mixed ^ (mixed >> 16)
