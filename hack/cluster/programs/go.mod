module nkudo.dev/hack/cluster/programs

go 1.19
