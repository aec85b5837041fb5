// The state of the simulated daemon: one JSON file, read and written under a lock, and what each subcommand does to it.
package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const requestTimeout = 5 * time.Second

type daemonState struct {
	Status        string `json:"status"`
	ManagementURL string `json:"managementUrl"`
	PublicKey     string `json:"publicKey"`
	IP            string `json:"ip"`
	FQDN          string `json:"fqdn"`
}

type daemon struct {
	directory string
	lock      *os.File
	state     daemonState
}

type session struct {
	IP    string `json:"ip"`
	FQDN  string `json:"fqdn"`
	Peers []struct {
		FQDN      string `json:"fqdn"`
		IP        string `json:"ip"`
		PublicKey string `json:"public_key"`
	} `json:"peers"`
}

func stateDirectory() string {
	directory := os.Getenv("MOCK_NETBIRD_STATE")
	if directory == "" {
		fail("mock-netbird: MOCK_NETBIRD_STATE must name a directory")
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		fail(err.Error())
	}
	return directory
}

// openDaemon reads the state; a directory without one is a daemon that was installed and never logged in.
func openDaemon(directory string) *daemon {
	opened := &daemon{directory: directory}
	opened.acquire()
	opened.state = daemonState{Status: "NeedsLogin", ManagementURL: defaultManagementURL}
	if text, err := os.ReadFile(opened.path()); err == nil {
		if err := json.Unmarshal(text, &opened.state); err != nil {
			fail("mock-netbird: " + err.Error())
		}
	}
	return opened
}

func (d *daemon) path() string { return filepath.Join(d.directory, "daemon.json") }

func (d *daemon) acquire() {
	lock, err := os.OpenFile(filepath.Join(d.directory, "daemon.lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		fail("mock-netbird: " + err.Error())
	}
	d.lock = lock
}

// close lets the next command in. A command that hangs calls it first: the real daemon answers others meanwhile.
func (d *daemon) close() {
	if d.lock != nil {
		_ = d.lock.Close()
		d.lock = nil
	}
}

func (d *daemon) save() {
	text, _ := json.MarshalIndent(d.state, "", "  ")
	temporary := d.path() + ".new"
	if err := os.WriteFile(temporary, text, 0o644); err != nil {
		fail("mock-netbird: " + err.Error())
	}
	if err := os.Rename(temporary, d.path()); err != nil {
		fail("mock-netbird: " + err.Error())
	}
}

// recordRun appends the arguments of every run to runs.jsonl, so that a test sees what `ps` could have shown.
func recordRun(directory string, arguments []string) {
	line, _ := json.Marshal(arguments[1:])
	file, err := os.OpenFile(filepath.Join(directory, "runs.jsonl"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		fail("mock-netbird: " + err.Error())
	}
	defer file.Close()
	_, _ = file.Write(append(line, '\n'))
}

type callError struct {
	status  int
	message string
}

func (e *callError) Error() string { return e.message }

// call speaks to the private paths of the management program. Status 0: not reached.
func (d *daemon) call(path string, input map[string]string, output interface{}) *callError {
	body, _ := json.Marshal(input)
	client := &http.Client{Timeout: requestTimeout}
	response, err := client.Post(strings.TrimRight(d.state.ManagementURL, "/")+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return &callError{0, err.Error()}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var refusal struct{ Message string }
		_ = json.NewDecoder(response.Body).Decode(&refusal)
		return &callError{response.StatusCode, refusal.Message}
	}
	if err := json.NewDecoder(response.Body).Decode(output); err != nil {
		return &callError{0, err.Error()}
	}
	return nil
}

func up(d *daemon, faults *faultSet, chosen options) {
	requireDaemon(faults)
	key := readSetupKey(chosen)
	if faults.has("hang") {
		d.close()
		hang()
	}
	if d.state.Status == "Connected" && d.refresh() == nil {
		fmt.Println("Already connected")
		return
	}
	if chosen.managementURL != "" {
		d.state.ManagementURL = chosen.managementURL
	}
	if d.state.PublicKey == "" || faults.has("new-identity") {
		d.state.PublicKey = newPublicKey()
	}
	hostname, _ := os.Hostname()
	name := chosen.hostname
	if name == "" {
		name = hostname
	}
	var registered session
	refusal := d.call("/mock/register", map[string]string{"setup_key": key, "name": name, "hostname": hostname, "public_key": d.state.PublicKey}, &registered)
	switch {
	case refusal == nil:
		d.state.Status, d.state.IP, d.state.FQDN = "Connected", registered.IP, registered.FQDN
		d.save()
		fmt.Println("Connected")
	case refusal.status == http.StatusNotFound:
		// An unknown key: the real command still tried after 60 s while the daemon says LoginFailed.
		d.state.Status = "LoginFailed"
		d.save()
		d.close()
		hang()
	case refusal.status == http.StatusUnauthorized:
		// No key and no peer: the single sign-on that nobody answers.
		d.state.Status = "NeedsLogin"
		d.save()
		d.close()
		fmt.Println("Please do the SSO login in your browser. \nIf your browser didn't open automatically, use this URL to log in:\n\nhttps://login.invalid/device?user_code=MOCK-CODE")
		hang()
	case refusal.status == 0 || refusal.status >= 500:
		d.state.Status = "Connecting"
		d.save()
		d.close()
		time.Sleep(faults.duration("dial-timeout", unreachableAfter))
		fail("login backoff cycle failed: rpc error: code = DeadlineExceeded desc = context deadline exceeded")
	default:
		d.state.Status = "LoginFailed"
		d.save()
		fail("login failed: rpc error: code = PermissionDenied desc = " + refusal.message)
	}
}

// refresh asks the server whether the peer still exists, as the stream of the real daemon does.
func (d *daemon) refresh() *callError {
	var answer session
	refusal := d.call("/mock/session", map[string]string{"public_key": d.state.PublicKey}, &answer)
	if refusal != nil && refusal.status == http.StatusForbidden {
		d.state.Status = "SessionExpired"
		d.save()
	}
	return refusal
}

func down(d *daemon) {
	if d.state.Status == "Connected" || d.state.Status == "Connecting" {
		_ = d.call("/mock/disconnect", map[string]string{"public_key": d.state.PublicKey}, &struct{}{})
		d.state.Status = "Idle"
		d.save()
	}
	fmt.Println("Disconnected")
}

func deregister(d *daemon) {
	if d.state.PublicKey == "" || d.state.Status == "NeedsLogin" {
		fail("deregister: rpc error: code = Unknown desc = not logged in")
	}
	if refusal := d.call("/mock/deregister", map[string]string{"public_key": d.state.PublicKey}, &struct{}{}); refusal != nil && refusal.status != http.StatusForbidden {
		fail("deregister: rpc error: code = Unavailable desc = " + refusal.message)
	}
	d.state.Status, d.state.IP, d.state.FQDN, d.state.PublicKey = "NeedsLogin", "", "", ""
	d.save()
	fmt.Println("Deregistered successfully")
}

func newPublicKey() string {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		fail(err.Error())
	}
	return base64.StdEncoding.EncodeToString(key)
}

func milliseconds(value json.Number) time.Duration {
	number, _ := strconv.ParseFloat(value.String(), 64)
	return time.Duration(number * float64(time.Millisecond))
}
