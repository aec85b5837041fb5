module mock-netbird/command

go 1.19
