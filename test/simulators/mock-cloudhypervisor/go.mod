module mock-cloudhypervisor

go 1.19
