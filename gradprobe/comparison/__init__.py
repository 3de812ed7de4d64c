"""One workload under several modes: timed side by side, accounted for, and explained."""
