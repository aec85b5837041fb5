package main

// What a boot opens on the host: kernel, firmware and disks, with the causes that the real program gives.

import (
	"debug/elf"
	"io"
	"os"
	"strings"
	"syscall"
)

const headerMagicOffset = 0x202

// loadKernel opens and checks the kernel; the causes are the ones of the real loader.
func loadKernel(path string) []string {
	file, err := os.Open(path)
	if err != nil {
		return []string{"Cannot open kernel file", osMessage(err)}
	}
	defer file.Close()
	if parsed, err := elf.NewFile(file); err == nil && parsed.Machine == elf.EM_X86_64 {
		return nil
	}
	reason := "Invalid bzImage"
	magic := make([]byte, 4)
	_, err = file.ReadAt(magic, headerMagicOffset)
	if err == nil && string(magic) == "HdrS" {
		return nil
	}
	if err != nil && err != io.EOF {
		reason = "Unable to read bzImage header"
	}
	reason = "Kernel Loader: " + reason
	return []string{"Cannot load the kernel into memory", "Kernel Loader: failed to load bzImage kernel image: " + reason, reason}
}

func loadFirmware(path string) []string {
	if file, err := os.Open(path); err != nil {
		return []string{"Error manipulating firmware file", osMessage(err)}
	} else {
		_ = file.Close()
	}
	return nil
}

// openDisk opens a disk as the device manager does; a lock comes later.
func openDisk(disk *Disk) (*os.File, []string) {
	if disk.Path == nil {
		return nil, []string{"Error from device manager", "No disk path was specified when one was expected"}
	}
	flags := os.O_RDWR
	if disk.ReadOnly {
		flags = os.O_RDONLY
	}
	file, err := os.OpenFile(*disk.Path, flags, 0)
	if err == nil {
		if info, statErr := file.Stat(); statErr == nil && info.IsDir() {
			_ = file.Close()
			err = syscall.EISDIR
		}
	}
	if err != nil {
		return nil, []string{"Error from device manager", "Cannot open disk path", "I/O error (path=" + *disk.Path + " op=open)", osMessage(err)}
	}
	detected := imageType(file)
	if disk.ImageType != "Unknown" && disk.ImageType != detected {
		_ = file.Close()
		return nil, []string{"Error from device manager", "Disk image type does not match expected type: specified = " + strings.ToLower(disk.ImageType) + ", detected = " + strings.ToLower(detected)}
	}
	disk.ImageType = detected
	return file, nil
}

// imageType is what the first bytes of a disk say; formats that no test has count as raw.
func imageType(file *os.File) string {
	head := make([]byte, 4)
	if _, err := file.ReadAt(head, 0); err == nil && string(head) == "QFI\xfb" {
		return "Qcow2"
	}
	return "Raw"
}

// Source: fcntl(2), F_OFD_SETLK, the open file description lock that the real program takes.
const setOpenFileLock = 37

func lockDisk(disk *Disk, file *os.File) []string {
	kind, name := int16(syscall.F_WRLCK), "Write"
	if disk.ReadOnly {
		kind, name = syscall.F_RDLCK, "Read"
	}
	lock := syscall.Flock_t{Type: kind, Whence: int16(io.SeekStart)}
	if err := syscall.FcntlFlock(file.Fd(), setOpenFileLock, &lock); err != nil {
		return []string{"Cannot lock images of all block devices", "Failed to get " + name + " lock for disk image: " + *disk.Path, "The file is already locked"}
	}
	return nil
}

const interfaceNameMax = 15

func checkTap(net *Net) []string {
	if net.Tap == nil || len(*net.Tap) <= interfaceNameMax {
		return nil
	}
	return strings.Split("Error from device manager|Cannot create virtio-net device|Failed to open taps|Open tap device failed|Interface name too long (max length is 15): "+*net.Tap, "|")
}
