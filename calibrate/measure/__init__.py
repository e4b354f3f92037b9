"""A machine is timed op by op and pass by pass, into a profile."""
