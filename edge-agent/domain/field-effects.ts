/**
 * What each field of a desired microVM does on a host: one row for each field of the message
 * DesiredMicroVM that arrives there. Pure data; whatever decides is derived from it or held to it by a
 * test: whether a guest has to be restarted (machine-change.ts), and the pages of the documentation. A
 * field without a row, a member that the VMM does not know, a row without a change in
 * machine-change.test.ts that behaves as it says, or one without a check of its effect in
 * test/conformance/hypervisor/field-checks.ts fails a test.
 */

/**
 * What a change of the field means for a guest that runs.
 * agent: the agent follows it, the guest's machine stays as it is. live: the running guest gets it,
 * inside the bounds that the row names; outside of them it is as `restart`. restart: the guest goes on
 * as it is, and the microVM says that it needs a restart. start: it counts at the next start of the
 * VMM, and asks for none.
 */
export type FieldChange = 'agent' | 'live' | 'restart' | 'start';

export interface FieldEffect {
  /** Place in edge.proto, from DesiredMicroVM on; the elements of a repeated field are its dotted children. */
  readonly field: string;
  /** Where a person writes it, from `spec` of the custom resource on; empty: it is derived. */
  readonly spec: string;
  /** Members of the VMM's configuration, as `<schema of its OpenAPI description>.<property>`. */
  readonly config: readonly string[];
  /** Calls that bring a change to a running guest; absent: none. */
  readonly calls?: readonly string[];
  readonly change: FieldChange;
  /** The rest for a person: the effect on the host, the bounds of a live change, what is refused. */
  readonly effect: string;
}

export const fieldEffects = [
  { field: 'name', spec: 'metadata.name', config: [], change: 'agent', effect: 'what people call it in logs and tables' },
  { field: 'namespace', spec: 'metadata.namespace', config: [], change: 'agent', effect: 'what people call it in logs and tables' },
  { field: 'run_policy', spec: 'runPolicy', config: [], calls: ['/vm.power-button', '/vmm.shutdown'], change: 'agent', effect: 'whether its VMM runs; Halted presses the power button first' },
  { field: 'paused', spec: 'paused', config: [], calls: ['/vm.pause', '/vm.resume'], change: 'live', effect: 'its processors stand still' },
  { field: 'restart_nonce', spec: 'restartNonce', config: [], calls: ['/vm.power-button', '/vmm.shutdown'], change: 'agent', effect: 'a change ends the VMM in order and starts it once' },
  { field: 'restart.initial_backoff_ms', spec: 'restart.initialBackoff', config: [], change: 'agent', effect: 'the first wait before it is started again' },
  { field: 'restart.max_backoff_ms', spec: 'restart.maxBackoff', config: [], change: 'agent', effect: 'the longest wait before it is started again' },
  { field: 'restart.max_retries', spec: 'restart.maxRetries', config: [], change: 'agent', effect: 'ends after which it counts as crash-looping' },
  { field: 'restart.window_ms', spec: 'restart.window', config: [], change: 'agent', effect: 'time in which those ends are counted' },
  { field: 'cpu_count', spec: 'cpu.count', config: ['CpusConfig.boot_vcpus'], calls: ['/vm.resize'], change: 'live', effect: 'virtual processors; live from 1 to cpu.max, and the guest has to let go of those that it loses' },
  { field: 'cpu_max', spec: 'cpu.max', config: ['CpusConfig.max_vcpus'], change: 'restart', effect: 'places for processors; without it as many as cpu.count' },
  { field: 'memory_bytes', spec: 'memory.size', config: ['MemoryConfig.size', 'MemoryConfig.hotplugged_size'], calls: ['/vm.resize'], change: 'live', effect: 'memory of the guest; live from what it was started with to memory.max, in steps of 128 MiB that the guest takes and gives back by virtio-mem' },
  { field: 'memory_max_bytes', spec: 'memory.max', config: ['MemoryConfig.hotplug_size', 'MemoryConfig.hotplug_method'], change: 'restart', effect: 'room for memory, by virtio-mem; NOT_ENOUGH_MEMORY above the memory of the host' },
  { field: 'memory_shared', spec: 'memory.shared', config: ['MemoryConfig.shared'], change: 'restart', effect: 'the memory is a shared mapping' },
  { field: 'memory_hugepage_bytes', spec: 'memory.hugepages', config: ['MemoryConfig.hugepages', 'MemoryConfig.hugepage_size'], change: 'restart', effect: 'HUGEPAGES_UNAVAILABLE unless the host has enough free ones for memory.max' },
  { field: 'kernel.path', spec: 'boot.kernel.path', config: ['PayloadConfig.kernel'], change: 'restart', effect: 'the file must be there before a start; its absence is a problem with its path' },
  { field: 'kernel.cmdline', spec: 'boot.kernel.cmdline', config: ['PayloadConfig.cmdline'], change: 'restart', effect: 'what the kernel is told' },
  { field: 'kernel.initramfs_path', spec: 'boot.kernel.initramfs', config: ['PayloadConfig.initramfs'], change: 'restart', effect: 'the file must be there before a start' },
  { field: 'firmware.path', spec: 'boot.firmware.path', config: ['PayloadConfig.firmware'], change: 'restart', effect: 'the file must be there before a start' },
  { field: 'disks.name', spec: 'disks[].name', config: ['DiskConfig.id'], calls: ['/vm.add-disk', '/vm.remove-device'], change: 'live', effect: 'the device is disk-<name>; disks come and go live, but for the first one and for a change of order. The guest has to let go of one that goes' },
  { field: 'disks.path', spec: 'disks[].path', config: ['DiskConfig.path'], change: 'restart', effect: 'a file of the host; it must be there before a start' },
  { field: 'disks.read_only', spec: 'disks[].readOnly', config: ['DiskConfig.readonly'], change: 'restart', effect: 'the guest can not write' },
  { field: 'disks.managed.ephemeral', spec: 'disks[].persistence', config: ['DiskConfig.path'], change: 'restart', effect: 'the file is made anew at each start' },
  { field: 'disks.managed.retain', spec: 'disks[].deletePolicy', config: [], change: 'agent', effect: 'the file moves to retained-disks when the microVM is deleted' },
  { field: 'disks.managed.image.url', spec: 'disks[].http.url', config: ['DiskConfig.path'], change: 'restart', effect: 'where the content is fetched from' },
  { field: 'disks.managed.image.sha256', spec: 'disks[].digest', config: ['DiskConfig.path', 'DiskConfig.image_type'], change: 'restart', effect: 'other content is never used; the format is read from the content' },
  { field: 'disks.managed.oci.registry', spec: 'disks[].oci.image', config: ['DiskConfig.path'], change: 'restart', effect: 'where the content is fetched from' },
  { field: 'disks.managed.oci.repository', spec: 'disks[].oci.image', config: ['DiskConfig.path'], change: 'restart', effect: 'where the content is fetched from' },
  { field: 'disks.managed.oci.sha256', spec: 'disks[].oci.image, digest', config: ['DiskConfig.path', 'DiskConfig.image_type'], change: 'restart', effect: 'other content is never used; the files of a container image become an ext4 file system' },
  { field: 'disks.managed.secret_name', spec: 'disks[].http.secretRef, oci.pullSecretRef', config: [], change: 'start', effect: 'credentials for the server of the image' },
  { field: 'disks.size_bytes', spec: 'disks[].size, blank', config: ['DiskConfig.path'], calls: ['/vm.resize-disk'], change: 'live', effect: 'the file is grown to it, live for a raw disk that the host made and the guest can write; it never shrinks' },
  { field: 'disks.rate_limit.bytes_per_second', spec: 'disks[].rateLimit.bandwidth', config: ['DiskConfig.rate_limiter_config', 'RateLimiterConfig.bandwidth', 'TokenBucket.size', 'TokenBucket.refill_time'], change: 'restart', effect: 'a bucket of one second' },
  { field: 'disks.rate_limit.ops_per_second', spec: 'disks[].rateLimit.iops', config: ['DiskConfig.rate_limiter_config', 'RateLimiterConfig.ops', 'TokenBucket.size', 'TokenBucket.refill_time'], change: 'restart', effect: 'a bucket of one second' },
  { field: 'disks.boot_index', spec: 'disks[].bootIndex', config: ['VmConfig.disks'], change: 'restart', effect: 'the order in which firmware finds the disks; refused with a kernel' },
  { field: 'networks.name', spec: 'networks[].name', config: ['NetConfig.id', 'NetConfig.tap'], calls: ['/vm.add-net', '/vm.remove-device'], change: 'live', effect: 'cards come and go live, but for a change of order; the guest has to let go of one that goes. The device is net-<name>, the tap is named after microVM and network' },
  { field: 'networks.kind', spec: 'networks[].nat, bridge, mesh, macvtap', config: ['NetConfig.tap'], change: 'restart', effect: 'the bridge that the tap is a port of, or the interface that its frames go to, and its rules' },
  { field: 'networks.mac', spec: 'networks[].mac', config: ['NetConfig.mac'], change: 'restart', effect: 'the only hardware address that the tap may send from' },
  { field: 'networks.address', spec: 'networks[].address', config: [], change: 'restart', effect: 'what DHCP gives, and the only address that the tap may send from' },
  { field: 'networks.gateway', spec: '', config: [], change: 'restart', effect: 'address of the host on the bridge' },
  { field: 'networks.bridge_name', spec: 'networks[].bridge.name', config: [], change: 'restart', effect: 'the bridge of the host that the tap is a port of' },
  { field: 'networks.vlan', spec: 'networks[].bridge.vlan', config: [], change: 'restart', effect: 'VLAN of the port; the bridge must filter VLANs' },
  { field: 'networks.parent', spec: 'networks[].macvtap.parent', config: [], change: 'restart', effect: 'the interface of the host that a macvlan device is on; frames go between it and the tap' },
  { field: 'networks.macvtap_mode', spec: 'networks[].macvtap.mode', config: [], change: 'restart', effect: 'mode of that macvlan device' },
  { field: 'networks.ports.name', spec: 'networks[].ports[].name', config: [], change: 'agent', effect: 'what people call it' },
  { field: 'networks.ports.protocol', spec: 'networks[].ports[].protocol', config: [], change: 'agent', effect: 'nftables rule' },
  { field: 'networks.ports.host_port', spec: 'networks[].ports[].hostPort', config: [], change: 'agent', effect: 'nftables rule; one that a program of the host has is refused' },
  { field: 'networks.ports.guest_port', spec: 'networks[].ports[].guestPort', config: [], change: 'agent', effect: 'nftables rule' },
  { field: 'serial_log', spec: 'console.serial', config: ['SerialConfig.mode', 'SerialConfig.file'], change: 'restart', effect: 'COM1 goes to the file that logs are read from, else nowhere' },
  { field: 'serial_interactive', spec: 'console.serial', config: ['SerialConfig.mode', 'SerialConfig.socket'], change: 'restart', effect: 'COM1 is a socket that the agent reads into the same file, and writes what an operator types' },
  { field: 'vsock.cid', spec: 'vsock.cid', config: ['VsockConfig.cid', 'VsockConfig.socket'], change: 'restart', effect: 'the context id of the guest; vsock.sock in its directory is the way in' },
  { field: 'probes.role', spec: 'probes.startup, readiness, liveness', config: [], change: 'agent', effect: 'startup comes first, readiness decides Ready, startup and liveness restart what fails' },
  { field: 'probes.tcp.port', spec: 'probes.*.tcp.port', config: [], change: 'agent', effect: 'a connection to the address of the guest' },
  { field: 'probes.http.port', spec: 'probes.*.http.port', config: [], change: 'agent', effect: 'a GET at the address of the guest; redirects are not followed' },
  { field: 'probes.http.path', spec: 'probes.*.http.path', config: [], change: 'agent', effect: 'the path of that GET' },
  { field: 'probes.http.tls', spec: 'probes.*.http.scheme', config: [], change: 'agent', effect: 'over TLS, whatever the certificate' },
  { field: 'probes.console.contains', spec: 'probes.*.console.contains', config: [], change: 'agent', effect: 'a text in the serial log of this boot' },
  { field: 'probes.vsock.port', spec: 'probes.*.vsock.port', config: [], change: 'agent', effect: 'a connection through vsock.sock' },
  { field: 'probes.initial_delay_ms', spec: 'probes.*.initialDelay', config: [], change: 'agent', effect: 'no try before this time after the boot' },
  { field: 'probes.period_ms', spec: 'probes.*.period', config: [], change: 'agent', effect: 'from the end of one try to the next' },
  { field: 'probes.timeout_ms', spec: 'probes.*.timeout', config: [], change: 'agent', effect: 'a try that takes longer failed' },
  { field: 'probes.success_threshold', spec: 'probes.*.successThreshold', config: [], change: 'agent', effect: 'successes in a row that count' },
  { field: 'probes.failure_threshold', spec: 'probes.*.failureThreshold', config: [], change: 'agent', effect: 'failures in a row that count' },
  { field: 'termination_grace_period_ms', spec: 'terminationGracePeriod', config: [], change: 'agent', effect: 'from the power button to the end of the VMM' },
  { field: 'overruled_site_order', spec: '', config: [], change: 'agent', effect: 'what that order of somebody at the site left standing ends: a new runPolicy or restartNonce, or nkudo.dev/override-hold' },
  { field: 'lease.stop_on_host_after_ms', spec: 'disconnect.replace, stopOnHostAfter', config: [], change: 'agent', effect: 'the guard ends the VMM when the lease of the host was not extended' },
  { field: 'images.bytes_per_second', spec: '', config: [], change: 'start', effect: 'pace of downloads, from the Site' },
  { field: 'images.allowed_registries', spec: '', config: [], change: 'start', effect: 'servers that images may come from, from the Site; others are refused with REGISTRY_NOT_ALLOWED' },
  { field: 'cloud_init.host_name', spec: 'cloudInit.hostName', config: ['DiskConfig.path'], change: 'restart', effect: 'local-hostname in meta-data of the seed disk' },
  { field: 'cloud_init.user_data', spec: 'cloudInit.userData', config: ['DiskConfig.path'], change: 'restart', effect: 'user-data of the seed disk' },
  { field: 'cloud_init.user_data_secret.name', spec: 'cloudInit.userDataSecretRef.name', config: ['DiskConfig.path'], change: 'restart', effect: 'user-data of the seed disk is the value; another version of the Secret needs a restart as well' },
  { field: 'cloud_init.user_data_secret.key', spec: 'cloudInit.userDataSecretRef.key', config: ['DiskConfig.path'], change: 'restart', effect: 'user-data of the seed disk is the value' },
  { field: 'cloud_init.network_data', spec: 'cloudInit.networkData', config: ['DiskConfig.path'], change: 'restart', effect: 'network-config of the seed disk; without it the addresses of the networks are' },
  { field: 'cloud_init.ssh_authorized_keys', spec: 'cloudInit.sshAuthorizedKeys', config: ['DiskConfig.path', 'DiskConfig.readonly', 'DiskConfig.image_type'], change: 'restart', effect: 'public-keys in meta-data of the seed disk, which the guest sees read-only after its other disks' },
  { field: 'secrets.name', spec: '', config: [], change: 'agent', effect: 'the value is kept in <state>/secrets, mode 0600, until the microVM is deleted' },
  { field: 'secrets.key', spec: '', config: [], change: 'agent', effect: 'the value is kept in <state>/secrets, mode 0600, until the microVM is deleted' },
  { field: 'secrets.resource_version', spec: '', config: [], change: 'agent', effect: 'what of it cloud-init reads needs a restart' },
] as const satisfies readonly FieldEffect[];

export type FieldPath = (typeof fieldEffects)[number]['field'];
