//! Frames as they come from a network, made by hand.

use std::net::IpAddr;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

/// An Ethernet frame with one IP packet. Checksums are zero: nobody here looks at them.
#[derive(Clone)]
pub(super) struct Frame {
    source: IpAddr,
    protocol: u8,
    transport: Vec<u8>,
}

impl Frame {
    pub(super) fn tcp(source: &str, port: u16, flags: u8) -> Self {
        let mut transport = vec![0; 20];
        transport[..2].copy_from_slice(&40_000_u16.to_be_bytes());
        transport[2..4].copy_from_slice(&port.to_be_bytes());
        transport[12] = 5 << 4;
        transport[13] = flags;
        Self::new(source, 6, transport)
    }

    pub(super) fn udp(source: &str, port: u16) -> Self {
        let mut transport = vec![0; 8];
        transport[2..4].copy_from_slice(&port.to_be_bytes());
        Self::new(source, 17, transport)
    }

    pub(super) fn other(source: &str, protocol: u8) -> Self {
        Self::new(source, protocol, vec![0; 8])
    }

    fn new(source: &str, protocol: u8, transport: Vec<u8>) -> Self {
        Self {
            source: source.parse().unwrap(),
            protocol,
            transport,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.tagged(&[])
    }

    /// With tags of VLANs between Ethernet and IP.
    pub(super) fn tagged(&self, tags: &[u16]) -> Vec<u8> {
        self.framed(tags, self.protocol, 0, &self.transport)
    }

    /// With IPv6 extension headers, by their numbers.
    pub(super) fn behind(&self, headers: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (index, header) in headers.iter().enumerate() {
            let next = headers.get(index + 1).copied().unwrap_or(self.protocol);
            match header {
                // Its length counts words of four bytes, less two: 12 bytes.
                51 => payload.extend([next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
                // A length, which means nothing here, and the first fragment.
                44 => payload.extend([next, 0, 0, 1, 0, 0, 0, 9]),
                // 16 bytes.
                _ => payload.extend([next, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            }
        }
        payload.extend(&self.transport);
        let first = headers.first().copied().unwrap_or(self.protocol);
        self.framed(&[], first, 0, &payload)
    }

    /// A fragment at this place, in units of eight bytes.
    pub(super) fn fragment(&self, place: u16) -> Vec<u8> {
        self.framed(&[], self.protocol, 0x2000 | place, &self.transport)
    }

    /// With four bytes of options in the header of IPv4.
    pub(super) fn with_options(&self, options: [u8; 4]) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes[14] = 0x46;
        bytes.splice(34..34, options);
        bytes
    }

    /// The first eight bytes of the transport, and more fragments to come.
    pub(super) fn tiny_fragment(&self) -> Vec<u8> {
        self.framed(&[], self.protocol, 0x2000, &self.transport[..8])
    }

    fn framed(&self, tags: &[u16], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0, 7]);
        }
        let length = u16::try_from(payload.len()).unwrap();
        match self.source {
            IpAddr::V4(source) => {
                bytes.extend([8, 0, 0x45, 0]);
                bytes.extend((length + 20).to_be_bytes());
                bytes.extend([0, 1]);
                bytes.extend(fragment.to_be_bytes());
                bytes.extend([64, protocol, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend([10, 77, 0, 1]);
            }
            IpAddr::V6(source) => {
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                bytes.extend(length.to_be_bytes());
                bytes.extend([protocol, 64]);
                bytes.extend(source.octets());
                bytes.extend([0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            }
        }
        bytes.extend(payload);
        bytes
    }
}
