#!/bin/bash
# one gate acquisition: TREE OUT MARK PATHS...
export PATH=/work/venvs/a/bin:$PATH PYTHONPATH=$1:/work/scratch/ci PYTHONPYCACHEPREFIX=/work/scratch/ci/pyc-$(echo $1|tr / _)
unset PYTHONDONTWRITEBYTECODE
cd $1/dflash_sim
export CI=true CPUTIMES=$2
[ "$3" = fast ] && m=() || m=(-m slow)
shift 3
timeout 3300 /work/scratch/heavy python -m pytest -p no:cacheprovider -p cputimes -n 0 -q "${m[@]}" "$@" > $CPUTIMES.log 2>&1
echo "$? $@" >> $CPUTIMES.done
