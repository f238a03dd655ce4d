import time
import pytest
from e2e.cluster import driver_behind_its_socket
from e2e.lab import wait_for

def test_measure(fabric):
    (h,) = fabric.cluster("host1")
    h.driver.start()
    h.docker("network","create","-d","openvswitch","--ipam-driver=openvswitch","--subnet=10.1.0.0/16","ours")
    h.docker("network","create","-d","openvswitch","--subnet=10.2.0.0/16","theirs")
    for n in ("ours","theirs"):
        h.docker("run","-d","--restart=always",f"--net={n}",f"--name={n}","--stop-signal=KILL","busybox","sleep","3600")
    def up():
        t = time.monotonic(); h.dockerd.start(wait=False)
        return t
    def report(what, t):
        h.dockerd.await_ready()
        print(f"\nMEASURE {what}: {time.monotonic()-t:.1f} s; running: {h.docker('ps','--format={{.Names}}').split()}", flush=True)
    h.dockerd.kill(); t=up(); report("driver up", t)
    h.dockerd.kill(); h.driver.kill(); h.run("rm","-f",h.driver.listens)
    with driver_behind_its_socket(h) as d:
        t=up(); time.sleep(2); h.run("touch","/run/driver-may-start"); report("socket, driver 2 s later", t)
    h.dockerd.kill()
    with driver_behind_its_socket(h) if False else __import__("contextlib").nullcontext():
        pass
    h.driver.kill(); h.run("rm","-f",h.driver.listens)
    t=up(); report("nothing there", t)
    h.driver.start(); time.sleep(1)
    print("after:", h.docker('ps','--format={{.Names}}').split())
