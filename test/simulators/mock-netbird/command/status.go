// What `netbird status` prints. The fields and their order are those of client/status/status.go of v0.77.1.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

type connection struct {
	URL       string `json:"url"`
	Connected bool   `json:"connected"`
	Error     string `json:"error"`
}

type peerDetail struct {
	FQDN                 string            `json:"fqdn"`
	IP                   string            `json:"netbirdIp"`
	PublicKey            string            `json:"publicKey"`
	Status               string            `json:"status"`
	LastStatusUpdate     string            `json:"lastStatusUpdate"`
	ConnectionType       string            `json:"connectionType"`
	IceCandidateType     map[string]string `json:"iceCandidateType"`
	IceCandidateEndpoint map[string]string `json:"iceCandidateEndpoint"`
	RelayAddress         string            `json:"relayAddress"`
	LastHandshake        string            `json:"lastWireguardHandshake"`
	Received             int               `json:"transferReceived"`
	Sent                 int               `json:"transferSent"`
	Latency              int               `json:"latency"`
	QuantumResistance    bool              `json:"quantumResistance"`
	Networks             []string          `json:"networks"`
}

type overview struct {
	Peers struct {
		Total     int          `json:"total"`
		Connected int          `json:"connected"`
		Details   []peerDetail `json:"details"`
	} `json:"peers"`
	CliVersion    string     `json:"cliVersion"`
	DaemonVersion string     `json:"daemonVersion"`
	DaemonStatus  string     `json:"daemonStatus"`
	Management    connection `json:"management"`
	Signal        connection `json:"signal"`
	Relays        struct {
		Total     int           `json:"total"`
		Available int           `json:"available"`
		Details   []interface{} `json:"details"`
	} `json:"relays"`
	IP                          string        `json:"netbirdIp"`
	PublicKey                   string        `json:"publicKey"`
	UsesKernelInterface         bool          `json:"usesKernelInterface"`
	WireguardPort               int           `json:"wireguardPort"`
	FQDN                        string        `json:"fqdn"`
	QuantumResistance           bool          `json:"quantumResistance"`
	QuantumResistancePermissive bool          `json:"quantumResistancePermissive"`
	Networks                    []string      `json:"networks"`
	ForwardingRules             int           `json:"forwardingRules"`
	DNSServers                  []interface{} `json:"dnsServers"`
	Events                      []interface{} `json:"events"`
	LazyConnectionEnabled       bool          `json:"lazyConnectionEnabled"`
	ProfileName                 string        `json:"profileName"`
	SSHServer                   struct {
		Enabled  bool          `json:"enabled"`
		Sessions []interface{} `json:"sessions"`
	} `json:"sshServer"`
}

const (
	wireguardPort = 51820
	// Go's time that was never set.
	never = "0001-01-01T00:00:00Z"
)

func status(d *daemon, faults *faultSet, chosen options) {
	view := observe(d)
	if state := faults.text("state"); state != "" {
		view.DaemonStatus = state
	}
	if text := faults.text("text"); text != "" {
		fmt.Print(text)
		return
	}
	needsLogin := view.DaemonStatus == "NeedsLogin" || view.DaemonStatus == "LoginFailed" || view.DaemonStatus == "SessionExpired"
	switch {
	case chosen.check != "":
		check(view, chosen.check, needsLogin)
	case chosen.isJSON:
		printJSON(view, faults.fields())
	case needsLogin:
		fmt.Printf("Daemon status: %s\n\nRun UP command to log in with SSO (interactive login):\n\n netbird up \n\n", view.DaemonStatus)
	default:
		fmt.Printf("OS: linux/amd64\nDaemon version: %s\nCLI version: %s\nManagement: %s\nSignal: %s\nFQDN: %s\nNetBird IP: %s\nPeers count: %d/%d Connected\n",
			version, version, connectedWord(view.Management.Connected), connectedWord(view.Signal.Connected), view.FQDN, view.IP, view.Peers.Connected, view.Peers.Total)
	}
}

func observe(d *daemon) *overview {
	view := &overview{CliVersion: version, DaemonVersion: version, ProfileName: "default", LazyConnectionEnabled: true}
	view.Peers.Details = []peerDetail{}
	view.Relays.Details = []interface{}{}
	view.DNSServers = []interface{}{}
	view.Events = []interface{}{}
	view.SSHServer.Sessions = []interface{}{}
	view.Management.URL = d.state.ManagementURL
	view.Signal.URL = d.state.ManagementURL
	if d.state.Status == "Connected" {
		connect(d, view)
	}
	view.DaemonStatus = d.state.Status
	view.PublicKey = d.state.PublicKey
	return view
}

func connect(d *daemon, view *overview) {
	var answer session
	refusal := d.call("/mock/session", map[string]string{"public_key": d.state.PublicKey}, &answer)
	switch {
	case refusal == nil:
		view.Management.Connected = true
		view.Signal.Connected = true
		view.Relays.Total, view.Relays.Available = 1, 1
		view.Relays.Details = append(view.Relays.Details, map[string]interface{}{"uri": "rel://127.0.0.1:33080", "available": true, "error": "", "transport": "ws"})
		addPeers(view, answer)
	case refusal.status == 403:
		d.state.Status = "SessionExpired"
		d.save()
		view.Management.Error = "rpc error: code = PermissionDenied desc = peer is not registered"
		return
	default:
		view.Management.Error = "rpc error: code = Unavailable desc = " + refusal.message
		view.Signal.Connected = true
	}
	view.IP = d.state.IP + "/16"
	view.FQDN = d.state.FQDN
	view.WireguardPort = wireguardPort
}

// addPeers lists peers as lazy connections leave them: known, idle, not connected.
func addPeers(view *overview, answer session) {
	for _, peer := range answer.Peers {
		view.Peers.Details = append(view.Peers.Details, peerDetail{
			FQDN: peer.FQDN, IP: peer.IP, PublicKey: peer.PublicKey, Status: "Idle", LastStatusUpdate: never, ConnectionType: "-",
			IceCandidateType: map[string]string{"local": "", "remote": ""}, IceCandidateEndpoint: map[string]string{"local": "", "remote": ""}, LastHandshake: never,
		})
	}
	view.Peers.Total = len(answer.Peers)
}

// printJSON adds the fields of a fault on top, so that a caller meets what a later version could print.
func printJSON(view *overview, extra map[string]json.RawMessage) {
	text, _ := json.Marshal(view)
	if len(extra) == 0 {
		fmt.Print(string(text))
		return
	}
	merged := map[string]json.RawMessage{}
	_ = json.Unmarshal(text, &merged)
	for name, value := range extra {
		merged[name] = value
	}
	text, _ = json.Marshal(merged)
	fmt.Print(string(text))
}

func check(view *overview, kind string, needsLogin bool) {
	switch kind {
	case "live":
	case "ready":
		if needsLogin {
			fail("readiness check: daemon status is " + view.DaemonStatus)
		}
	case "startup":
		if !view.Management.Connected {
			fail("startup check: management not connected")
		}
		if !view.Signal.Connected {
			fail("startup check: signal not connected")
		}
	default:
		fail(fmt.Sprintf("unknown check %q, must be one of: live, ready, startup", kind))
	}
	os.Exit(0)
}

func connectedWord(isConnected bool) string {
	if isConnected {
		return "Connected"
	}
	return "Disconnected"
}
